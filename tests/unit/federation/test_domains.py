"""A federation with a domain shift: images, noise, accuracies of clients and their evenness."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from clients.sgd import SgdClient
from fl_sim import Data
from fl_sim.config.validation import check
from fl_sim.core.errors import FieldError
from fl_sim.data.domain_shift import DomainShift
from fl_sim.data.domains.colour_cast import ColourCast
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.data.sources import load_subset
from fl_sim.experiment import Evaluation, Experiment, Model
from fl_sim.federation.federation import prepare_federation
from fl_sim.metrics.accuracy import class_accuracies, class_shares, client_accuracies
from fl_sim.metrics.domains import domain_rows
from fl_sim.models.scoring import compute_logits
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.rounds.measure import record_round
from tests.unit.rounds.test_evaluation import outcome_of
from tests.unit.rounds.test_robustness import by_metric, keep, train

Maker = Callable[..., Experiment]
SHIFT = DomainShift(num_domains=3)


def test_images_are_those_of_the_clients_domain_and_noise_is_made_on_them(
    experiment: Maker,
) -> None:
    plain = experiment(protection=LinearSeparable(), layout=Layout(fraction=0.5))
    shifted = replace(plain, domains=SHIFT)
    without, federation = prepare_federation(plain), prepare_federation(shifted)
    pool, dataset = federation.pool, federation.dataset
    assert torch.equal(pool.clients, without.pool.clients)
    assert torch.equal(pool.protected, without.pool.protected)
    assert federation.domains is not None
    assert federation.domains.tolist() == [0, 1, 2, 0]
    domains = federation.domains[pool.clients]
    expected = SHIFT.apply_by_domain(dataset.train_images, domains, 0)
    assert torch.equal(pool.clean_images, expected)
    assert torch.equal(without.pool.clean_images[domains == 0], expected[domains == 0])
    noise = (pool.noisy_images.float() - pool.clean_images.float()).flatten(1)
    sizes = noise.square().mean(1).sqrt()  # in levels: at most the radius, and half for rounding
    assert 0 < float(sizes.max()) <= 255 * LinearSeparable().radius + 0.5


@pytest.mark.parametrize("tune", ["full", "head"])
def test_a_clients_accuracy_is_measured_on_its_domain(experiment: Maker, tune: str) -> None:
    asked = experiment(domains=SHIFT, model=Model(tune=tune, norm="group"))  # type: ignore[arg-type]
    federation, backend, state, _ = train(asked)
    record = record_round(federation, backend, outcome_of(state))
    found, shares = client_accuracies(record), class_shares(record)
    backend.trainer.model_tensors.load(state.parameters, state.buffers)
    for client, domain in enumerate([0, 1, 2, 0]):
        images = SHIFT.apply(federation.dataset.test_images, domain, 0)
        logits = compute_logits(backend.trainer.model, federation.compute_inputs(images))
        by_class = class_accuracies(logits, record.test_labels)
        assert float(found[client]) == pytest.approx(float(shares[client] @ by_class), abs=1e-12)
    *by_domain, between, gap = domain_rows(record)
    values = [row.value for row in by_domain]
    assert between.metric == "domain_accuracy_gap"
    assert between.value == max(values) - min(values)
    assert [row.group for row in by_domain] == ["domain_0", "domain_1", "domain_2"]
    assert by_domain[0].value == float(
        (record.test_logits.argmax(1) == record.test_labels).double().mean()
    )
    means = [found[[0, 3]].mean(), found[1], found[2]]
    assert gap.value == pytest.approx(float(max(means) - min(means)), abs=1e-12)


def test_a_model_of_its_own_is_measured_on_the_clients_domain(experiment: Maker) -> None:
    client = SgdClient(learning_rate=0.1, local_epochs=5)
    *_, rows = train(
        experiment(
            client=client, domains=SHIFT, partition=Iid(), evaluation=Evaluation(alone=client)
        )
    )
    accuracy = {
        row.client: row.value for row in by_metric(rows, "client_accuracy") if row.round == 2
    }
    alone = {row.client: row.value for row in by_metric(rows, "alone_accuracy")}
    for row in by_metric(rows, "client_benefit"):
        assert row.value == pytest.approx(accuracy[row.client] - alone[row.client], abs=1e-12)
    assert min(alone.values()) > 0.25  # above chance on its own domain


def test_a_shifted_federation_is_less_even(experiment: Maker) -> None:
    spreads: dict[bool, list[float]] = {False: [], True: []}
    data = Data("digits", num_clients=6, num_samples=400, num_test=120)
    for seed in range(2):
        for shifted in spreads:
            *_, rows = train(
                experiment(
                    client=SgdClient(learning_rate=0.1, local_epochs=2),
                    data=data,
                    partition=Iid(),
                    model=Model(backbone="mlp"),
                    domains=DomainShift(num_domains=3) if shifted else None,
                    rounds=3,
                    seed=seed,
                )
            )
            spreads[shifted].append(by_metric(rows, "fairness_spread")[-1].value)
    assert min(spreads[True]) > max(spreads[False])


def test_without_a_shift_nothing_changes(experiment: Maker) -> None:
    federation = prepare_federation(experiment())
    assert federation.domains is None
    assert list(federation.evaluation_inputs) == ["test", "pool"]
    assert "domains" not in experiment().describe()
    shifted = experiment(domains=DomainShift((ColourCast(strength=0.5),), num_domains=None))
    assert Experiment.from_json(shifted.to_json()) == shifted


def test_a_diverged_model_has_no_accuracy_in_any_domain(experiment: Maker) -> None:
    federation, backend, state, rows = train(experiment(domains=SHIFT, rounds=1))
    assert all(keep(row)[-2] for row in by_metric(rows, "domain_accuracy"))
    broken = replace(state, parameters=torch.full_like(state.parameters, 1e30))
    record = record_round(federation, backend, outcome_of(broken))
    assert bool(client_accuracies(record).isnan().all())


def test_grey_images_have_no_colour_cast(experiment: Maker) -> None:
    asked = experiment(domains=DomainShift((ColourCast(),)))
    assert load_subset("digits", None, 10, 10, None).train_images.shape[1] == 1
    with pytest.raises(FieldError, match=r"^domains.transforms.0: .*ColourCast needs 3"):
        check(asked)
    with pytest.raises(FieldError, match=r"num_domains: at most data\.num_clients = 4"):
        experiment(domains=DomainShift(num_domains=5))
