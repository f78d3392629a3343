"""SCAFFOLD, FedDyn, Ditto and FedBN, several rounds of them, against loops by definition."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clients.ditto import DittoClient
from clients.fedbn import FedBNClient
from clients.feddyn import FedDynClient
from clients.scaffold import ScaffoldClient
from clients.sgd import SgdClient, iterate_batches
from fl_sim.contracts import RoundContext, Shard
from fl_sim.core.seeding import generator
from fl_sim.models.parameters import copy_buffers, flatten, load_flat
from fl_sim.models.tuning import TrainedPart
from strategies.fedavg import FedAvg
from strategies.feddyn import FedDyn
from strategies.scaffold import SCAFFOLD

CLASSES, FEATURES, CLIENTS = 3, 5, 4
PLAIN = SgdClient(learning_rate=0.1, momentum=0.0, batch_size=8, local_epochs=2)


def linear() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(FEATURES, CLASSES))
    load_flat(model, 0.1 * torch.randn(18, generator=generator(0, "start")))
    return model


def normalised() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES))
    size = len(flatten(model))
    load_flat(model, 1 + 0.1 * torch.randn(size, generator=generator(0, "start")))
    return model


def shard_of(client: int) -> Shard:
    rng = generator(client, "shard")
    count = 20 + 4 * client
    inputs = torch.randn(count, FEATURES, generator=rng) + client
    labels = torch.randint(0, CLASSES, (count,), generator=rng)
    return Shard(client, inputs, labels, torch.arange(count), CLASSES)


def gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    loss = functional.cross_entropy(model(inputs), labels)
    pieces = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([piece.reshape(-1) for piece in pieces])


def test_scaffold_is_its_algorithm_over_rounds() -> None:
    """Karimireddy et al. (2020), algorithm 1, option II, all clients but one in each round."""
    rule, client = SCAFFOLD(server_learning_rate=0.7), ScaffoldClient(sgd=PLAIN)
    model = linear()
    ours = flatten(model)
    state, memories = rule.initial_state(18), [dict[str, Tensor]() for _ in range(CLIENTS)]
    x, c = flatten(model).double(), torch.zeros(18).double()
    own = [torch.zeros(18).double() for _ in range(CLIENTS)]
    for number in range(1, 4):
        who = [k for k in range(CLIENTS) if k != number]
        updates, sent, moves, changes = [], [], [], []
        for k in who:
            shard = replace(
                shard_of(k),
                round=number,
                received=rule.broadcast(state),
                memory=memories[k],
                sent={},
            )
            load_flat(model, ours)
            client.train(model, shard, generator(number, "train", k))
            updates.append(flatten(model) - ours)
            sent.append(shard.sent["control"])

            load_flat(model, x.float())
            rng, steps = generator(number, "train", k), 0
            for _ in range(2):
                for inputs, labels in iterate_batches(shard, 8, rng):
                    y = flatten(model)
                    g = gradient(model, inputs, labels)
                    load_flat(model, y - 0.1 * (g - own[k] + c).float())
                    steps += 1
            moved = flatten(model).double() - x
            after = own[k] - c - moved / (steps * 0.1)
            changes.append(after - own[k])
            own[k] = after
            moves.append(moved)
        context = replace(
            RoundContext.anonymous(len(who)),
            clients=torch.tensor(who),
            num_clients=CLIENTS,
            sent={"control": torch.stack(sent)},
        )
        decision = rule.decide(state, torch.stack(updates), torch.ones(len(who)), context)
        state, ours = decision.state, ours + decision.step
        x = x + 0.7 * torch.stack(moves).mean(0)
        c = c + torch.stack(changes).sum(0) / CLIENTS
        torch.testing.assert_close(ours.double(), x, rtol=0, atol=1e-5)
        torch.testing.assert_close(state, c, rtol=0, atol=1e-4)


def test_scaffold_follows_the_learning_rate_of_each_layer_and_round() -> None:
    settings = replace(PLAIN, learning_rate_decay=0.5)
    model = TrainedPart(*linear())
    model.rates = {"0.bias": 0.1}
    start = flatten(model)
    shard = replace(shard_of(0), round=3, received={"control": torch.zeros(18)})
    ScaffoldClient(sgd=settings).train(model, shard, generator(0, "rates"))
    steps = ScaffoldClient(sgd=settings).num_steps(len(shard))
    factors = torch.cat([torch.ones(15), torch.full((3,), 0.1)])
    expected = (start - flatten(model)) / (steps * 0.1 * 0.25 * factors)
    torch.testing.assert_close(shard.memory["control"], expected, rtol=1e-5, atol=1e-6)


def test_the_first_round_of_scaffold_is_plain_descent() -> None:
    models = [linear(), linear()]
    shard = replace(shard_of(1), received={"control": torch.zeros(18)})
    ScaffoldClient(sgd=PLAIN).train(models[0], shard, generator(0, "first"))
    PLAIN.train(models[1], shard_of(1), generator(0, "first"))
    torch.testing.assert_close(flatten(models[0]), flatten(models[1]), rtol=1e-6, atol=1e-7)


def test_under_another_rule_scaffold_stays_plain_descent() -> None:
    shard, models = shard_of(1), [linear(), linear()]
    for number in (1, 2):
        for client, model in zip((ScaffoldClient(sgd=PLAIN), PLAIN), models, strict=True):
            client.train(model, shard, generator(number, "other"))
    assert torch.equal(flatten(models[0]), flatten(models[1]))
    assert shard.memory == {}


def test_control_variates_of_equal_clients_cancel() -> None:
    rule = SCAFFOLD()
    changes = torch.randn(1, 6, generator=generator(0, "equal")).expand(4, 6).contiguous()
    context = replace(RoundContext.anonymous(4), sent={"control": changes})
    state = rule.decide(rule.initial_state(6), torch.zeros(4, 6), torch.ones(4), context).state
    torch.testing.assert_close(state, changes[0].double())


@pytest.mark.parametrize("pull", [0.0, 0.5])
def test_ditto_is_its_algorithm_over_rounds(pull: float) -> None:
    """Li et al. (2021), algorithm 1, for one client."""
    client = DittoClient(pull=pull, sgd=PLAIN, personal_epochs=1)
    shard, start = shard_of(2), flatten(linear())
    model, own, v = linear(), replace(shard, memory={}), start.clone()
    for number in range(1, 4):
        received = flatten(model)
        client.train(model, own, generator(number, "ditto"))

        plain, rng = linear(), generator(number, "ditto")
        load_flat(plain, received)
        PLAIN.train(plain, shard, rng)
        assert torch.equal(flatten(model), flatten(plain))  # what is sent is plain descent
        for inputs, labels in iterate_batches(shard, 8, rng):
            load_flat(plain, v)
            v = v - 0.1 * (gradient(plain, inputs, labels) + pull * (v - received))
        torch.testing.assert_close(own.memory["ditto"], v, rtol=0, atol=1e-5)
    personal = linear()
    assert client.load_personal_model(personal, own.memory)
    assert torch.equal(flatten(personal), own.memory["ditto"])


def test_a_strong_pull_holds_the_personal_model_at_the_global_one() -> None:
    gaps = []
    for pull in (0.0, 5.0):
        model, shard = linear(), replace(shard_of(2), memory={})
        start = flatten(model)
        client = DittoClient(pull=pull, sgd=PLAIN, personal_epochs=20)
        client.train(model, shard, generator(0, "pull"))
        gaps.append(float((shard.memory["ditto"] - start).norm()))
    assert gaps[1] < gaps[0] / 3


def batch_norm_places(model: nn.Sequential) -> Tensor:
    """Return which of the parameters belong to the normalisation."""
    own = {id(parameter) for parameter in model[1].parameters()}
    return torch.cat([torch.full((p.numel(),), id(p) in own) for p in model.parameters()])


def test_fedbn_averages_everything_but_the_normalisation() -> None:
    """Li et al. (2021), algorithm 1: each client's own layers go on where they stopped."""
    client, rule = FedBNClient(training=PLAIN), FedAvg()
    model = normalised()
    where, ours, statistics = batch_norm_places(model), flatten(model), copy_buffers(model)
    memories = [dict[str, Tensor]() for _ in range(CLIENTS)]
    peers = [normalised() for _ in range(CLIENTS)]  # whole models, of which a part is averaged
    for number in range(1, 4):
        updates = []
        for k in range(CLIENTS):
            load_flat(model, ours)
            shard = replace(shard_of(k), memory=memories[k])
            client.train(model, shard, generator(number, "bn", k))
            updates.append(flatten(model) - ours)
            assert not bool(updates[-1][where].any())
            assert all(torch.equal(statistics[n], b) for n, b in copy_buffers(model).items())
            PLAIN.train(peers[k], shard_of(k), generator(number, "bn", k))
        ours = ours + rule.aggregate(None, torch.stack(updates), torch.ones(CLIENTS))[1]
        mean = torch.stack([flatten(peer) for peer in peers]).mean(0)
        for peer in peers:
            load_flat(peer, torch.where(where, flatten(peer), mean))
        for k, peer in enumerate(peers):
            load_flat(model, ours)
            assert client.load_personal_model(model, memories[k])
            torch.testing.assert_close(flatten(model), flatten(peer), rtol=0, atol=1e-5)
            for name, value in copy_buffers(model).items():
                torch.testing.assert_close(value, copy_buffers(peer)[name], rtol=0, atol=1e-4)
            peer.train()
        load_flat(model, ours)
        model[1].reset_running_stats()


def test_fedbn_without_batch_normalisation_is_the_wrapped_training() -> None:
    models: list[Any] = [linear(), linear()]
    shard = replace(shard_of(0), memory={})
    FedBNClient(training=PLAIN).train(models[0], shard, generator(0, "none"))
    PLAIN.train(models[1], shard_of(0), generator(0, "none"))
    assert torch.equal(flatten(models[0]), flatten(models[1]))
    assert shard.memory == {}
    assert not FedBNClient().load_personal_model(copy.deepcopy(models[0]), shard.memory)


def test_feddyn_is_its_algorithm_over_rounds() -> None:
    """Acar et al. (2021), algorithm 1, all clients but one in each round."""
    alpha = 0.3
    rule, client = FedDyn(alpha=alpha), FedDynClient(sgd=PLAIN)
    model = linear()
    ours = flatten(model)
    state, memories = rule.initial_state(18), [dict[str, Tensor]() for _ in range(CLIENTS)]
    x, h = flatten(model).double(), torch.zeros(18).double()
    gradients = [torch.zeros(18).double() for _ in range(CLIENTS)]
    for number in range(1, 5):
        who = [k for k in range(CLIENTS) if k != number % CLIENTS]
        updates, models = [], []
        for k in who:
            load_flat(model, ours)
            shard = replace(
                shard_of(k), round=number, received=rule.broadcast(state), memory=memories[k]
            )
            client.train(model, shard, generator(number, "train", k))
            updates.append(flatten(model) - ours)

            load_flat(model, x.float())
            rng = generator(number, "train", k)
            for _ in range(2):
                for inputs, labels in iterate_batches(shard, 8, rng):
                    y = flatten(model).double()
                    slope = gradient(model, inputs, labels) - gradients[k] + alpha * (y - x)
                    load_flat(model, (y - 0.1 * slope).float())
            models.append(flatten(model).double())
            gradients[k] = gradients[k] - alpha * (models[-1] - x)
        context = replace(
            RoundContext.anonymous(len(who)), clients=torch.tensor(who), num_clients=CLIENTS
        )
        decision = rule.decide(state, torch.stack(updates), torch.ones(len(who)), context)
        state, ours = decision.state, ours + decision.step
        h = h - alpha / CLIENTS * sum(own - x for own in models)
        x = torch.stack(models).mean(0) - h / alpha
        torch.testing.assert_close(ours.double(), x, rtol=0, atol=1e-5)
        torch.testing.assert_close(state, h, rtol=0, atol=1e-5)


def test_under_another_rule_feddyn_stays_plain_descent() -> None:
    shard, models = shard_of(1), [linear(), linear()]
    for client, model in zip((FedDynClient(sgd=PLAIN), PLAIN), models, strict=True):
        client.train(model, shard, generator(1, "other"))
    assert torch.equal(flatten(models[0]), flatten(models[1]))
    assert shard.memory == {}


def test_feddyn_reaches_the_optimum_of_clients_that_disagree() -> None:
    """Quadratic losses with different curvature: the mean of local optima is not the optimum."""
    curvatures, optima = torch.tensor([1.0, 9.0]), torch.tensor([0.0, 1.0])
    best = float((curvatures * optima).sum() / curvatures.sum())
    rule, x = FedDyn(alpha=1.0), 0.5
    state, own = rule.initial_state(1), torch.zeros(2)
    for _ in range(200):
        local = (curvatures * optima + own + x) / (curvatures + 1.0)  # solved exactly
        own = own - (local - x)
        decision = rule.decide(
            state, (local - x)[:, None], torch.ones(2), RoundContext.anonymous(2)
        )
        state, x = decision.state, x + float(decision.step)
    assert x == pytest.approx(best, abs=1e-4)
