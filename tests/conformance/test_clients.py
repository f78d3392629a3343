"""Every client, found by walking its package, keeps the contract of a client."""

import json
import math
import pickle
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from clients._shared.wrapping import Wrapper
from clients.backdoor import BackdoorClient
from clients.faulty import FaultyClient
from clients.free_rider import FreeRiderClient
from clients.gaussian import GaussianClient
from clients.label_flip import LabelFlipClient
from clients.noop import NoopClient
from clients.poisoned_statistics import PoisonedStatisticsClient
from clients.scaling import ScalingClient
from clients.sgd import SgdClient
from clients.sign_flip import SignFlipClient
from clients.statistics import StatisticsClient
from fl_sim.contracts import Client, ColludingClient, Collusion, Dataset, Shard, Update
from fl_sim.core.plugins import discover, paragraph_of
from fl_sim.core.seeding import generator
from fl_sim.core.serialization import construct, describe, field_values
from fl_sim.experiment import Model
from fl_sim.models.closed_form import StatisticsHead
from fl_sim.models.parameters import copy_buffers, flatten, load_flat
from fl_sim.models.tuning import build_network
from fl_sim.triggers import Bars
from strategies.median import CoordinateMedian

CLIENTS = [cls() for cls in discover("clients", Client)]
SGD = SgdClient()
IDLE = {NoopClient: "it measures what a round costs without any training"}
UNDRAWN = {StatisticsClient, PoisonedStatisticsClient}  # they compute moments, without training
every_learner = pytest.mark.parametrize(
    "client", [c for c in CLIENTS if type(c) not in IDLE], ids=lambda c: type(c).__name__
)
every_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda c: type(c).__name__)


class Trained(NamedTuple):
    """Result of a client's training of a fresh network."""

    start: Tensor
    parameters: Tensor
    buffers: dict[str, Tensor]
    metrics: dict[str, float]

    def bits(self) -> bytes:
        """NaN equals NaN here."""
        return pickle.dumps([self.parameters.numpy().tobytes(), self.metrics])


@pytest.fixture(scope="module")
def shard(digits: Dataset) -> Shard:
    return Shard(2, digits.train_images[:50], digits.train_labels[:50], torch.arange(50), 10)


def fresh(client: Client = SGD) -> nn.Sequential:
    """Return a network with batch normalisation, or one that the client does not refuse."""
    model = build_network(Model("small_cnn"), (1, 8, 8), 10, seed=0).trained
    if client.cannot_train(model):
        model = build_network(Model("small_cnn", norm="group"), (1, 8, 8), 10, seed=0).trained
    if client.cannot_train(model):  # a head that is solved; its features are pixels here
        model = build_network(Model("small_cnn", tune="ridge"), (1, 8, 8), 10, seed=0).trained
    assert client.cannot_train(model) == ""
    return model


def trained(client: Client, shard: Shard, seed: int = 0) -> Trained:
    model, new = fresh(client), replace(shard, memory={}, sent={})
    start = flatten(model)
    metrics = client.train(model, new, generator(seed, "client"))
    return Trained(start, flatten(model), copy_buffers(model), metrics)


@every_client
def test_the_same_generator_gives_the_same_bits(client: Client, shard: Shard) -> None:
    once, again = trained(client, shard), trained(client, shard)
    assert once.bits() == again.bits()
    assert all(torch.equal(once.buffers[name], again.buffers[name]) for name in once.buffers)


@every_learner
def test_another_generator_gives_another_result(client: Client, shard: Shard) -> None:
    if type(client) in UNDRAWN:
        return
    assert trained(client, shard, 0).bits() != trained(client, shard, 1).bits()


@every_client
def test_the_shard_is_left_as_it_was(client: Client, shard: Shard) -> None:
    before = [tensor.clone() for tensor in (shard.inputs, shard.labels, shard.sample_ids)]
    trained(client, shard)
    assert all(map(torch.equal, before, (shard.inputs, shard.labels, shard.sample_ids)))


@every_learner
def test_parameters_change_in_place(client: Client, shard: Shard) -> None:
    outcome = trained(client, shard)
    assert not torch.equal(outcome.parameters, outcome.start)


@every_client
def test_every_client_reports_the_same_metrics(client: Client, shard: Shard) -> None:
    metrics = trained(client, shard).metrics
    assert list(metrics) == ["train_loss", "train_accuracy"]
    assert all(type(value) is float for value in metrics.values())
    if getattr(client, "reports", "exact") == "withheld" or type(client) in UNDRAWN:
        assert all(math.isnan(value) for value in metrics.values())
        return
    assert 0 <= metrics["train_accuracy"] <= 1
    assert metrics["train_loss"] > 0 or type(client) in IDLE


def test_the_idle_client_changes_nothing(shard: Shard) -> None:
    outcome = trained(NoopClient(), shard)
    assert torch.equal(outcome.parameters, outcome.start)


@every_client
def test_nothing_is_drawn_from_the_global_generator(client: Client, shard: Shard) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = trained(client, shard).bits()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert trained(client, shard).bits() == first


@every_learner
def test_cached_features_are_trained_on_like_images(client: Client) -> None:
    features = torch.randn(30, 6, generator=generator(0, "features"))
    shard = Shard(0, features, torch.arange(30) % 3, torch.arange(30), 3)
    head = nn.Sequential(nn.Linear(6, 3))
    if client.cannot_train(head):
        head = nn.Sequential(StatisticsHead(6, 3, second_moments=True))
    start = flatten(head)
    if client.changes_images:
        with pytest.raises(ValueError, match="needs features of the images that it changes"):
            client.train(head, shard, generator(0, "head"))
        shard = replace(shard, changed_inputs=features + 1)
    client.train(head, shard, generator(0, "head"))
    assert not torch.equal(flatten(head), start)


@every_client
def test_frozen_parameters_stay_where_they_are(client: Client, shard: Shard) -> None:
    model = fresh(client)
    layer = model[min(1, len(model) - 1)]
    layer.requires_grad_(False)
    before = layer.weight.clone()
    client.train(model, replace(shard, memory={}, sent={}), generator(0, "client"))
    assert torch.equal(layer.weight, before)


@every_client
def test_a_shard_of_one_image_is_enough(client: Client, shard: Shard) -> None:
    one = Shard(0, shard.inputs[:1], shard.labels[:1], shard.sample_ids[:1], 10)
    assert set(trained(client, one).metrics) == {"train_loss", "train_accuracy"}


@every_client
def test_what_a_client_keeps_survives_a_checkpoint(client: Client, shard: Shard) -> None:
    first = replace(shard, memory={}, sent={})
    client.train(fresh(client), first, generator(0, "first"))
    assert all(type(value) is Tensor for value in (first.memory | first.sent).values())
    copied = {name: value.clone() for name, value in first.memory.items()}
    outcomes = []
    for memory in (first.memory, copied):
        model, second = fresh(client), replace(shard, round=2, memory=memory, sent={})
        client.train(model, second, generator(0, "second"))
        outcomes.append(flatten(model).numpy().tobytes())
    assert outcomes[0] == outcomes[1]


@every_client
def test_a_personal_model_is_there_once_a_client_has_trained(client: Client, shard: Shard) -> None:
    model, own = fresh(client), replace(shard, memory={}, sent={})
    before = flatten(model)
    assert not client.load_personal_model(model, own.memory)
    assert torch.equal(flatten(model), before)
    client.train(fresh(client), own, generator(0, "client"))
    if client.load_personal_model(model, own.memory):
        assert not torch.equal(flatten(model), before)


@every_client
def test_a_client_pickles(client: Client) -> None:
    assert pickle.loads(pickle.dumps(client)) == client


@every_client
def test_a_client_is_described_and_constructed_again(client: Client) -> None:
    assert construct(json.loads(json.dumps(describe(client))), Client) == client


@every_client
def test_a_client_of_a_batch_sends_what_it_trained(client: Client, shard: Shard) -> None:
    update = Update(2, torch.arange(5.0), {}, 50, {})
    if client.sgd_config(1) is not None:
        assert client.replies(update, shard) == (update,)


@every_client
def test_a_client_says_by_its_methods_what_its_fields_hold(client: Client) -> None:
    values = field_values(client)
    assert client.wrapped_clients() == {n: v for n, v in values.items() if isinstance(v, Client)}
    assert client.backdoor() == (
        (values["trigger"], values["target"]) if "trigger" in values else None
    )
    assert client.named_classes() == {n: values[n] for n in ("source", "target") if n in values}
    assert client.images_per_step() == values.get("batch_size")
    assert client.applied_countermeasures() == values.get("countermeasures", ())
    assert isinstance(client, Wrapper) == ("honest" in values)


@every_client
def test_a_client_is_put_around_another_where_it_wraps_an_honest_one(client: Client) -> None:
    other = SgdClient(learning_rate=1e-6)
    inner = client.rewrap(other, always=False).wrapped_clients()
    assert (inner == {"honest": other}) == isinstance(client, Wrapper)


WRAPPERS = [client for client in CLIENTS if isinstance(client, Wrapper)]


@pytest.mark.parametrize("client", WRAPPERS, ids=lambda c: type(c).__name__)
def test_an_attacker_wraps_any_honest_training(client: Any, shard: Shard) -> None:
    gentle = replace(client, honest=SgdClient(learning_rate=1e-6))
    assert trained(gentle, shard).bits() != trained(client, shard).bits()


ATTACKERS = [client for client in CLIENTS if isinstance(client, Wrapper | FreeRiderClient)]


@pytest.mark.parametrize("client", ATTACKERS, ids=lambda c: type(c).__name__)
def test_every_attacker_states_its_threat_model(client: Client) -> None:
    assert paragraph_of(type(client), "Threat model: ")


@pytest.mark.parametrize("client", WRAPPERS, ids=lambda c: type(c).__name__)
def test_an_attacker_is_in_all_else_like_what_it_wraps(client: Any, shard: Shard) -> None:
    class Odd(SgdClient):  # type: ignore[misc]
        def num_steps(self, num_examples: int) -> int:
            return 1234

        def load_personal_model(self, model: nn.Module, memory: dict[str, Tensor]) -> bool:
            return True

        def replies(self, update: Update, shard: Shard) -> tuple[Update, ...]:
            return (update, update, update)

    odd = replace(client, honest=Odd())
    update = Update(2, torch.ones(3), {}, 50, {})
    assert odd.num_steps(50) == 1234
    assert odd.load_personal_model(fresh(client), {})
    assert len(odd.replies(update, shard)) == 3


COLLUDERS = [client for client in CLIENTS if isinstance(client, ColludingClient)]
every_colluder = pytest.mark.parametrize("client", COLLUDERS, ids=lambda c: type(c).__name__)


def collusion(honest: int, own: int, seed: int = 0, size: int = 40) -> Collusion:
    rng = generator(seed, "collusion")
    updates = 0.01 + 0.1 * torch.randn(honest + own, size, generator=rng)
    weights = torch.randint(1, 9, (honest + own,), generator=rng).float()
    return Collusion(
        updates[:honest],
        updates[honest:],
        weights[:honest],
        weights[honest:],
        CoordinateMedian(),
        None,
        generator(seed, "forging"),
        retrained=lambda client: -updates[:honest],
    )


@every_colluder
@pytest.mark.parametrize(("honest", "own"), [(9, 2), (2, 1), (1, 1), (3, 5), (0, 2)])
def test_a_forged_update_is_a_finite_row_for_each_colluder(
    client: ColludingClient, honest: int, own: int
) -> None:
    known = collusion(honest, own)
    forged = client.forge(known)
    assert forged.shape == known.own.shape
    assert forged.dtype == known.own.dtype
    assert bool(forged.isfinite().all())


@every_colluder
def test_forging_is_repeatable_and_leaves_what_it_sees_alone(client: ColludingClient) -> None:
    known, again = collusion(7, 3), collusion(7, 3)
    forged = client.forge(known)
    assert torch.equal(forged, client.forge(again))
    for name in ("honest", "own", "honest_weights", "own_weights"):
        assert torch.equal(getattr(known, name), getattr(again, name))
    forged.zero_()
    assert torch.equal(known.honest, again.honest)
    assert torch.equal(known.own, again.own)


@every_colluder
def test_equal_honest_updates_are_no_special_case(client: ColludingClient) -> None:
    known = collusion(5, 2)
    alike = replace(known, honest=known.honest[:1].repeat(5, 1))
    assert bool(client.forge(alike).isfinite().all())
    assert bool(client.forge(replace(known, honest=0 * known.honest)).isfinite().all())


@every_colluder
def test_nothing_is_forged_from_the_global_generator(client: ColludingClient) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    client.forge(collusion(6, 2))
    assert torch.equal(torch.get_rng_state(), state)


@every_colluder
def test_colluders_train_as_what_they_wrap(client: ColludingClient, shard: Shard) -> None:
    assert trained(client, shard).bits() == trained(SgdClient(), shard).bits()


def test_label_flipping_is_honest_training_on_mirrored_labels(shard: Shard) -> None:
    mirrored = replace(shard, labels=torch.tensor([9 - int(label) for label in shard.labels]))
    assert trained(LabelFlipClient(), shard).bits() == trained(SgdClient(), mirrored).bits()


@pytest.mark.parametrize("scale", [0.5, 1.0, 10.0])
def test_sign_flipping_mirrors_the_honest_update_at_the_start(shard: Shard, scale: float) -> None:
    honest = trained(SgdClient(), shard)
    forged = trained(SignFlipClient(scale=scale), shard)
    expected = honest.start - scale * (honest.parameters - honest.start)
    assert torch.equal(forged.parameters, expected)
    assert forged.metrics == honest.metrics


def test_scaling_goes_the_honest_way_further(shard: Shard) -> None:
    honest, scaled = trained(SgdClient(), shard), trained(ScalingClient(factor=4.0), shard)
    expected = honest.start + 4 * (honest.parameters - honest.start)
    assert torch.allclose(scaled.parameters, expected, rtol=1e-6)


def test_gaussian_noise_has_the_scale_that_was_asked_for(shard: Shard) -> None:
    sent = trained(GaussianClient(scale=3.0), shard)
    noise = sent.parameters - sent.start
    assert float(noise.std()) == pytest.approx(3, rel=0.1)
    assert float(noise.mean()) == pytest.approx(0, abs=0.3)


def flipped(client: LabelFlipClient, shard: Shard) -> Tensor:
    """Return the labels that the wrapped client is shown."""
    shown: list[Tensor] = []

    class Spy(SgdClient):  # type: ignore[misc]
        def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
            shown.append(shard.labels)
            return {}

    replace(client, honest=Spy()).train(fresh(client), shard, generator(0, "spy"))
    return shown[0]


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_random_labels_are_wrong_for_the_share_that_was_asked_for(
    shard: Shard, share: float
) -> None:
    labels = flipped(LabelFlipClient("random", share), shard)
    assert int((labels != shard.labels).sum()) == round(share * len(shard))
    assert int(labels.min()) >= 0
    assert int(labels.max()) < 10
    assert torch.equal(labels, flipped(LabelFlipClient("random", share), shard))


def test_a_larger_share_spoils_the_same_images_and_others(shard: Shard) -> None:
    some, more = (flipped(LabelFlipClient("random", s), shard) != shard.labels for s in (0.2, 0.6))
    assert bool((more | ~some).all())


def test_targeted_flipping_turns_one_class_into_another(shard: Shard) -> None:
    labels = flipped(LabelFlipClient("targeted", source=3, target=8), shard)
    assert torch.equal(labels, torch.where(shard.labels == 3, 8, shard.labels))
    absent = replace(shard, labels=torch.zeros_like(shard.labels))
    assert torch.equal(flipped(LabelFlipClient("targeted", source=3), absent), absent.labels)


def test_a_backdoor_stamps_and_relabels_its_share_and_nothing_else(shard: Shard) -> None:
    shown: list[Shard] = []

    class Spy(SgdClient):  # type: ignore[misc]
        def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
            shown.append(shard)
            return {}

    for client in (BackdoorClient(Bars(), 7, 0.4), BackdoorClient(Bars(), 7, 0.4, shared=True)):
        replace(client, honest=Spy()).train(fresh(client), shard, generator(0, "spy"))
    whole, part = shown
    for seen, piece in ((whole, None), (part, shard.client)):
        changed = (seen.inputs != shard.inputs).flatten(1).any(1)
        stamped = Bars().stamp(shard.inputs, piece)
        moved = (seen.inputs == stamped).flatten(1).all(1) & (seen.labels == 7)
        assert int(moved.sum()) >= 20
        assert bool((moved | ~changed).all())
        kept = ~moved
        assert torch.equal(seen.labels[kept], shard.labels[kept])
    assert not torch.equal(whole.inputs, part.inputs)


def test_a_free_rider_repeats_the_last_change_of_the_model(shard: Shard) -> None:
    client, own = FreeRiderClient(repeats=2.0, noise=0.0), replace(shard, memory={})
    model = fresh(client)
    start = flatten(model)
    client.train(model, own, generator(0, "first"))
    assert torch.equal(flatten(model), start)
    load_flat(model, start + 0.5)
    client.train(model, own, generator(0, "second"))
    assert torch.allclose(flatten(model), start + 0.5 + 2 * 0.5, atol=1e-5)


@pytest.mark.parametrize("fault", ["nan", "inf"])
def test_faulty_numbers_are_sent_for_every_parameter(shard: Shard, fault: Any) -> None:
    sent = trained(FaultyClient(fault), shard)
    assert not bool(sent.parameters.isfinite().any())
    assert sent.metrics == trained(SgdClient(), shard).metrics


def test_faulty_replies_are_too_many_too_short_or_boast(shard: Shard) -> None:
    update = Update(2, torch.arange(5.0), {}, 50, {})
    first, second = FaultyClient("twice").replies(update, shard)
    assert first is second is update
    (short,) = FaultyClient("shape").replies(update, shard)
    assert short.delta is not None
    assert short.delta.tolist() == [0, 1, 2, 3]
    (boast,) = FaultyClient("count").replies(update, shard)
    assert boast.num_examples == 10**9
    assert boast.delta is update.delta


def test_a_stale_reply_is_that_of_the_round_before(shard: Shard) -> None:
    own, model = replace(shard, memory={}), fresh()
    start = flatten(model)
    FaultyClient("stale").train(model, own, generator(0, "first"))
    first = flatten(model) - start
    assert torch.allclose(first, trained_from(start, shard, "first"), atol=1e-6)
    load_flat(model, start + 0.01)
    FaultyClient("stale").train(model, own, generator(0, "second"))
    assert torch.allclose(flatten(model) - (start + 0.01), first, atol=1e-6)


def trained_from(start: Tensor, shard: Shard, label: str) -> Tensor:
    model = fresh()
    SgdClient().train(model, shard, generator(0, label))
    return flatten(model) - start
