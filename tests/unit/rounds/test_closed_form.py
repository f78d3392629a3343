"""Closed-form heads in a run: what a tune selects, and the same head on every way to it."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from clients.label_flip import LabelFlipClient
from clients.local_dp import LocalDpClient
from clients.poisoned_statistics import PoisonedStatisticsClient
from clients.sgd import SgdClient
from clients.statistics import StatisticsClient
from fl_sim import Adversary, Data, Evaluation, Experiment, FailurePolicy, Model, run
from fl_sim.config import validation
from fl_sim.config.sweeps import expand_cells
from fl_sim.contracts import Row, Shard
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.core.flower_strategies import find_strategy
from fl_sim.core.seeding import generator
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Dirichlet
from fl_sim.experiment import CLOSED_FORM
from fl_sim.federation.federation import load_federation
from fl_sim.models import parameters
from fl_sim.models.closed_form import read_class_embeddings
from fl_sim.models.scoring import compute_logits
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.rounds.evaluation import load_solved
from fl_sim.rounds.state import RoundOutcome
from fl_sim.runs import memory
from fl_sim.runs.replay import replay
from fl_sim.training.faults import Faults
from strategies.differential_privacy import DifferentialPrivacy
from strategies.fedadam import FedAdam
from strategies.fedavg import FedAvg
from strategies.fedcof import FedCOF
from strategies.krum import Krum
from strategies.lda import LinearDiscriminant
from strategies.median import CoordinateMedian
from strategies.ncm import NearestClassMean
from strategies.norm_bounding import NormBounding
from strategies.ridge import RidgeHead

every_tune = pytest.mark.parametrize("tune", CLOSED_FORM)


def experiment(tune: Any = "ridge", **changes: Any) -> Experiment:
    fields: dict[str, Any] = {
        "name": "heads",
        "data": Data("digits", num_clients=6, num_samples=240, num_test=100),
        "partition": Dirichlet(0.3),
        "model": Model("small_cnn", tune=tune),
        "client": SgdClient(),
        "strategy": FedAvg(),
        "rounds": 4,
    }
    return Experiment(**(fields | changes))


@cache
def last(wanted: Experiment) -> RoundOutcome:
    """Return the only round of an experiment, which is run once in all tests."""
    (outcome,) = replay(load_federation(wanted.to_json()))
    return outcome


def value(rows: list[Row], metric: str) -> float:
    return next(r.value for r in rows if r.metric == metric and r.client == -1)


@every_tune
def test_the_tune_alone_selects_client_rule_and_a_single_round(tune: Any) -> None:
    chosen = experiment("head").with_value("model.tune", tune)
    assert (chosen.client, chosen.rounds) == (StatisticsClient(), 1)
    assert isinstance(chosen.strategy, type(RULES[tune]))
    assert chosen == experiment(tune) == Experiment.from_json(chosen.to_json())
    assert replace(chosen, seed=3).run_id == chosen.run_id
    assert tune in chosen.describe_closed_form()
    validation.check(chosen)


RULES = {
    "ncm": NearestClassMean(),
    "ridge": RidgeHead(),
    "lda": LinearDiscriminant(),
    "fedcof": FedCOF(),
}


def test_a_rule_that_was_asked_for_aggregates_the_statistics() -> None:
    assert experiment(strategy=Krum()).strategy == RidgeHead(rule=Krum())
    own = RidgeHead(regularization=1.0, rule=CoordinateMedian())
    assert experiment(strategy=own).strategy == own
    other = experiment(strategy=own).with_value("model.tune", "lda")
    assert other.strategy == LinearDiscriminant(rule=CoordinateMedian())
    assert experiment(client=StatisticsClient(clipping_norm=9.0)).client.clipping_norm == 9.0  # type: ignore[attr-defined]
    wrapped = experiment(client=LocalDpClient(training=SgdClient()))
    assert wrapped.client == LocalDpClient(training=StatisticsClient())


def test_parts_of_another_tune_are_refused_by_name() -> None:
    with pytest.raises(FieldError, match=r"^strategy: .*model.tune=head"):
        experiment("head", strategy=RidgeHead())
    with pytest.raises(FieldError, match=r"^client: .*model.tune=full"):
        experiment("full", client=StatisticsClient())
    with pytest.raises(FieldError, match=r"^strategy: .*rule of this project"):
        experiment(strategy=find_strategy("FedMedian")())
    with pytest.raises(FieldError, match=r"^strategy: .*each client's own"):
        experiment("fedcof", strategy=Krum())
    with pytest.raises(FieldError, match=r"^strategy: .*all clients agree on"):
        validation.check(experiment(strategy=FedAdam()))
    for rule in (CoordinateMedian(), Krum(), DifferentialPrivacy(), NormBounding()):
        validation.check(experiment(strategy=rule))
    attack = LabelFlipClient(honest=SgdClient(learning_rate=0.5))
    with pytest.raises(FieldError, match=r"^adversary\.client\.honest"):
        validation.check(experiment(adversary=Adversary(attack, share=0.2)))


def test_a_grid_over_tunes_has_a_cell_for_each() -> None:
    cells = expand_cells(experiment("head"), {"model.tune": ["head", *CLOSED_FORM]}, (0, 1))
    assert len({cell.key for cell in cells}) == 2 * (1 + len(CLOSED_FORM))
    assert [cell.experiment.rounds for cell in cells[::2]] == [4, 1, 1, 1, 1]


@every_tune
def test_a_head_is_solved_that_beats_chance_by_far(tune: Any) -> None:
    outcome = last(experiment(tune))
    assert value(outcome.rows, "accuracy") > 0.6
    assert outcome.state.parameters.dtype == torch.float64
    assert value(outcome.rows, "bytes_down") == 6 * 8 * (64 * 10 + 10)
    moments = 64 * 65 // 2 if tune in ("ridge", "lda") else 1
    assert value(outcome.rows, "bytes_up") == 6 * 8 * (10 + 640 + moments)


def test_the_head_does_not_depend_on_partition_or_protected_order() -> None:
    heads = [
        last(experiment(partition=Dirichlet(a), data=DATA)).state.parameters for a in (0.1, 9.0)
    ]
    torch.testing.assert_close(heads[0], heads[1], rtol=1e-8, atol=1e-8)


DATA = Data("digits", num_clients=5, num_samples=240, num_test=100, held_out=0.0)


def test_single_updates_and_their_sum_give_the_same_head() -> None:
    summed = last(experiment()).state.parameters
    evaluated = last(experiment(evaluation=Evaluation(contributions="shapley", alone=SgdClient())))
    torch.testing.assert_close(evaluated.state.parameters, summed, rtol=1e-9, atol=1e-9)
    rows = evaluated.rows
    shapley = [r.value for r in rows if r.metric == "contribution_shapley"]
    assert len(shapley) == 6
    assert sum(shapley) > 0.3
    assert abs(value(rows, "fairness_benefit_mean")) < 0.3  # a head of zero alone would give more


@pytest.mark.parametrize("tune", ["ncm", "lda"])
def test_contributions_and_clients_alone_are_those_of_solved_heads(tune: Any) -> None:
    evaluation = Evaluation(contributions="leave_one_out", alone=SgdClient())
    rows = last(experiment(tune, evaluation=evaluation)).rows
    alone = [r.value for r in rows if r.metric == "alone_accuracy"]
    assert min(alone) > 0.3  # a head of zero would know the first class alone
    left_out = [r.value for r in rows if r.metric == "contribution_leave_one_out"]
    assert len(alone) == len(left_out) == 6
    assert any(left_out)


@pytest.mark.parametrize("evaluation", [{"contributions": "shapley"}, {"alone": SgdClient()}])
def test_what_fedcof_has_no_head_for_is_refused(evaluation: Any) -> None:
    wanted = experiment("fedcof", evaluation=Evaluation(**evaluation))
    (field,) = evaluation
    with pytest.raises(FieldError, match=rf"^evaluation.{field}: .*FedCOF"):
        validation.check(wanted)


def test_protected_shares_and_attackers_change_the_head() -> None:
    clean = last(experiment()).state.parameters
    noise = RandomNoise(radius=0.3)
    protected = experiment(protection=noise, layout=Layout(fraction=0.5, unit="samples"))
    flipped = experiment(adversary=Adversary(LabelFlipClient(), share=0.3))
    assert flipped.adversaries[0].client.honest == SgdClient()  # type: ignore[attr-defined]
    forged = experiment(adversary=Adversary(PoisonedStatisticsClient(), share=0.3))
    heads = [clean, *(last(each).state.parameters for each in (protected, flipped, forged))]
    distances = torch.cdist(torch.stack(heads), torch.stack(heads))
    assert bool((distances + torch.eye(4) > 1e-3).all())


def test_noise_on_statistics_is_accounted_for_by_client() -> None:
    noisy = StatisticsClient(clipping_norm=5.0, noise_multiplier=1.0)
    rows = [r for r in last(experiment(client=noisy)).rows if r.metric == "epsilon"]
    assert [r.client for r in rows] == list(range(6))
    assert all(r.group == "images" and r.valid and 3 < r.value < 6 for r in rows)


def test_statistics_that_are_not_numbers_are_a_failure_of_their_client() -> None:
    outcome = last(experiment(failures=FailurePolicy(on_failure="skip")))
    federation = load_federation(experiment().to_json())
    assert not outcome.failures
    from fl_sim.backends.base import InProcessBackend
    from fl_sim.rounds.loop import run_rounds
    from fl_sim.runs.single_run import make_initial_state
    from fl_sim.training.client_trainer import make_trainer

    trainer = make_trainer(federation, Faults.parse("nan:0.5"))
    state = make_initial_state(federation)
    (faulty,) = run_rounds(federation, state, InProcessBackend(trainer))
    assert faulty.failures
    assert "not finite" in faulty.failures[0].cause
    assert value(faulty.rows, "accuracy") > 0.3


def test_a_finished_run_is_resumed_from_its_files(tmp_path: Path) -> None:
    first = run(experiment(), out=tmp_path)
    again = run(experiment(), out=tmp_path, resume=True)
    assert first.rows.equals(again.rows)


@pytest.mark.parametrize("tune", ["head", "lora"])
def test_training_starts_from_a_solved_head_whose_bytes_count_in_the_first_round(tune: Any) -> None:
    warm = experiment(tune, model=Model("small_cnn", tune=tune, warm_start="ridge"), rounds=2)
    cold = replace(warm, model=replace(warm.model, warm_start=None))
    validation.check(warm)
    federations = [load_federation(each.to_json()) for each in (warm, cold)]
    (first, second), (start, _) = (
        [outcome.rows for outcome in replay(federation)] for federation in federations
    )
    assert value(first, "accuracy") > value(start, "accuracy") + 0.3
    statistics = 6 * 8 * (10 + 640 + 64 * 65 // 2)
    assert value(first, "bytes_up") == value(start, "bytes_up") + statistics
    assert value(second, "bytes_up") == value(start, "bytes_up")
    assert warm.run_id != cold.run_id
    assert Experiment.from_json(warm.to_json()) == warm


def test_a_robust_rule_aggregates_the_statistics_of_the_start_too() -> None:
    model = Model("small_cnn", tune="head", warm_start="ridge")
    assert experiment(model=model, strategy=Krum()).closed_form_start().strategy == RidgeHead(
        rule=Krum()
    )
    theirs = experiment(model=model, strategy=find_strategy("FedAdam")())
    assert theirs.closed_form_start().strategy == RidgeHead()


def test_a_start_that_would_leak_or_mislead_is_refused() -> None:
    model = Model("small_cnn", tune="head", warm_start="ridge")
    private = experiment(model=model, client=LocalDpClient())
    with pytest.raises(FieldError, match=r"^model.warm_start: .*without any"):
        validation.check(private)
    with pytest.raises(FieldError, match=r"^model.warm_start: .*batch normalisation"):
        validation.check(experiment(model=replace(model, tune="full")))
    alone = experiment(model=model, evaluation=Evaluation(alone=SgdClient()))
    with pytest.raises(FieldError, match=r"^evaluation.alone: .*warm_start"):
        validation.check(alone)
    with pytest.raises(FieldError, match="warm_start"):
        Model(tune="ridge", warm_start="ncm")
    for fields, cause in (
        ({"tune": "prompt"}, "None with prompts"),
        ({"tune": "lora", "adapter": "a folder"}, "None with an adapter"),
    ):
        with pytest.raises(FieldError, match=f"^model.warm_start: {cause}"):
            validation.check(experiment(model=replace(model, **fields)))


@pytest.mark.parametrize("tune", ["ridge", "lda", "ncm"])
def test_the_head_of_a_coalition_is_solved_for_its_own_number_of_examples(tune: Any) -> None:
    wanted = experiment(tune, evaluation=Evaluation(contributions="leave_one_out"))
    federation = load_federation(wanted.to_json())
    (outcome,) = replay(federation)
    found = {r.client: r.value for r in outcome.rows if r.metric == "contribution_leave_one_out"}
    whole = value(outcome.rows, "accuracy")
    for left_out in range(6):
        shards = [federation.shard(client) for client in range(6) if client != left_out]
        inputs = torch.cat([shard.inputs for shard in shards])
        labels = torch.cat([shard.labels for shard in shards])
        rows = torch.arange(len(labels))
        one = Shard(0, inputs, labels, rows, 10)
        parameters.load_flat(federation.model, federation.start)
        StatisticsClient().train(federation.model, one, generator(0))
        load_solved(federation, parameters.flatten(federation.model), len(labels))
        logits = compute_logits(federation.model, federation.test_inputs)
        right = (logits.argmax(1) == federation.dataset.test_labels).double().mean()
        assert found[left_out] == pytest.approx(whole - float(right), abs=1e-9)


def test_numbers_that_overflow_and_rules_that_solve_twice_are_refused() -> None:
    with pytest.raises(FieldError, match=r"^clipping_norm: at most"):
        StatisticsClient(clipping_norm=1e200)
    with pytest.raises(FieldError, match=r"^noise_multiplier: at most"):
        StatisticsClient(clipping_norm=1.0, noise_multiplier=1e300)
    with pytest.raises(FieldError, match=r"^regularization: at most"):
        RidgeHead(regularization=1e308)
    with pytest.raises(FieldError, match=r"^rule: a rule that aggregates"):
        RidgeHead(rule=NearestClassMean())


def test_the_memory_of_the_first_head_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    warm = experiment("head", model=Model("small_cnn", tune="head", warm_start="ridge"))
    cold = replace(warm, model=replace(warm.model, warm_start=None))
    ridge = warm.closed_form_start()
    monkeypatch.setattr(memory, "used_memory", lambda: 0)
    needed = [memory.predict(load_federation(each.to_json())) for each in (warm, cold, ridge)]
    assert needed[0] == needed[2] > needed[1]
    monkeypatch.setattr(memory, "available_memory", lambda: needed[1])
    with pytest.raises(FieldError, match=r"^model.warm_start: None here"):
        memory.check(load_federation(warm.to_json()))


@pytest.mark.parametrize("suffix", ["npy", "safetensors", "csv"])
def test_zero_shot_takes_its_head_from_a_file_of_class_embeddings(
    suffix: str, tmp_path: Path
) -> None:
    path, rows = tmp_path / f"classes.{suffix}", class_means()
    if suffix == "npy":
        np.save(path, rows.numpy())
    elif suffix == "csv":
        np.savetxt(path, rows.numpy(), delimiter=",")
    else:
        save_file({"classes": rows}, path)
    model = Model("small_cnn", tune="zero_shot", class_embeddings=str(path))
    wanted = experiment(model=model)
    validation.check(wanted)
    assert (type(wanted.client).__name__, wanted.rounds) == ("NoopClient", 1)
    outcome = last(wanted)
    assert value(outcome.rows, "accuracy") > 0.6
    assert value(outcome.rows, "bytes_up") == 0
    np.save(tmp_path / "short.npy", rows[:3].numpy())
    other = experiment(model=replace(model, class_embeddings=str(tmp_path / "short.npy")))
    with pytest.raises(FieldError, match="10 classes x 64 features"):
        validation.check(other)
    missing = replace(model, class_embeddings=str(tmp_path / "none.npy"))
    with pytest.raises(FieldError, match="class_embeddings"):
        validation.check(experiment(model=missing))
    with pytest.raises(FieldError, match="class_embeddings"):
        Model(tune="zero_shot")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"", "one matrix"),
        ("a.npy", b"PK\x03\x04", "one matrix"),
        ("a.csv", b"", "2 classes x 3 features"),
        ("a.npy", np.full((2, 3), 1j), "real"),
        ("a.npy", np.full((2, 3), np.nan), "finite"),
        ("a.npy", np.array([[1.0, 0, 0], [0, 0, 0]]), r"direction counts; got .classes \[1\]"),
        ("a.npy", np.array([[1e30, 0, 0], [0, 1, 0]]), r"direction counts; got .classes \[0\]"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_files_of_class_embeddings_that_are_none_are_refused(
    name: str, content: Any, message: str, tmp_path: Path
) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content)
    with pytest.raises(FieldError, match=message):
        read_class_embeddings(str(tmp_path / name), (2, 3))


def test_noise_on_statistics_is_a_guarantee_only_if_the_number_of_examples_is_public() -> None:
    secret = DifferentialPrivacy(noise_multiplier=2.0)
    with pytest.raises(RequestError, match="RidgeHead uses how many examples there are"):
        RidgeHead(rule=secret).releases(())
    public = replace(secret, public_counts=True)
    assert RidgeHead(rule=public).releases(()) == public.releases(())


def class_means() -> Tensor:
    """Return the mean feature of each class, in place of a text's."""
    federation = load_federation(experiment("head").to_json())
    labels, features = federation.pool.labels, federation.inputs.float()
    return torch.stack([features[labels == c].mean(0) for c in range(10)])
