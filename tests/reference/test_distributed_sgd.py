"""Distributed SGD: local steps, momentum of workers and of the server, attackers beside clients."""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.serverapp import strategy as flower
from torch import Tensor, nn
from torch.nn import functional

from clients.alie import AlieClient
from clients.early_stopping import EarlyStoppingClient
from clients.ipm import IpmClient
from clients.joint_label_flip import JointLabelFlipClient
from clients.scaffold import ScaffoldClient
from clients.sgd import SgdClient, iterate_epochs
from clients.sign_flip import SignFlipClient
from clients.worker_momentum import WorkerMomentumClient
from fl_sim import Adversary, Evaluation, Experiment, Model, Participation, run
from fl_sim.backends.base import InProcessBackend
from fl_sim.contracts import RoundContext, Shard
from fl_sim.core.errors import FieldError
from fl_sim.core.perturbation import as_floats
from fl_sim.core.seeding import generator
from fl_sim.data.partition import Dirichlet, Iid
from fl_sim.federation.federation import Federation, prepare_federation
from fl_sim.models import parameters
from fl_sim.models.parameters import flatten, load_flat
from fl_sim.participants import AvailabilityWindow
from fl_sim.rounds.loop import create_state, run_rounds
from fl_sim.runs.single_run import make_server
from fl_sim.schedule import Schedule
from fl_sim.training.client_trainer import make_trainer
from strategies.afl import AFL
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.krum import MultiKrum
from strategies.scaffold import SCAFFOLD
from strategies.server_momentum import ServerMomentum
from strategies.trimmed_mean import TrimmedMean

Maker = Callable[..., Experiment]
STEP = SgdClient(learning_rate=1.0, momentum=0.0, batch_size=5, local_steps=1)


def shard_of(count: int) -> Shard:
    rng = generator(count, "shard")
    labels = torch.randint(0, 3, (count,), generator=rng)
    return Shard(0, torch.randn(count, 4, generator=rng), labels, torch.arange(count), 3)


def linear() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 3))
    load_flat(model, 0.1 * torch.randn(15, generator=generator(0, "start")))
    return model


def played(
    experiment: Experiment, batch_clients: bool = False
) -> tuple[Federation, Any, list[Any]]:
    """Run all rounds in this process; return the federation, the last state and the rounds."""
    federation = prepare_federation(experiment)
    shapes = parameters.parameter_shapes(federation.model)
    server = make_server(experiment.strategy, federation.start, shapes, experiment.seed)
    state = create_state(federation, server)
    state.batch_clients = batch_clients
    seen = list(run_rounds(federation, state, InProcessBackend(make_trainer(federation))))
    return federation, state, seen


# Local steps


@pytest.mark.parametrize("count", [4, 5, 23])
def test_as_many_steps_as_epochs_have_are_those_epochs(count: int) -> None:
    epochs = SgdClient(batch_size=5, local_epochs=3)
    steps = replace(epochs, local_epochs=1, local_steps=epochs.num_steps(count))
    models = [linear(), linear()]
    for client, model in zip((epochs, steps), models, strict=True):
        client.train(model, shard_of(count), generator(1, "client"))
    assert torch.equal(flatten(models[0]), flatten(models[1]))


def test_steps_go_on_through_a_pass_that_is_shuffled_anew() -> None:
    shard, settings = shard_of(12), SgdClient(batch_size=5, local_steps=7)
    (seen,) = iterate_epochs(settings, shard, generator(1, "client"))
    rows = [[int((shard.inputs == x).all(1).nonzero()) for x in inputs] for inputs, _ in seen]
    assert [len(own) for own in rows] == [5, 5, 2, 5, 5, 2, 5]
    first, second, third = [*chain(*rows[:3])], [*chain(*rows[3:6])], rows[6]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert len(set(third)) == 5


def test_a_round_of_one_step_draws_one_random_batch() -> None:
    shard, settings = shard_of(12), SgdClient(learning_rate=0.5, batch_size=5, local_steps=1)
    model = linear()
    start = flatten(model)
    metrics = settings.train(model, shard, generator(1, "client"))
    rows = torch.randperm(12, generator=generator(1, "client"))[:5]
    before = linear()
    loss = functional.cross_entropy(before(shard.inputs[rows]), shard.labels[rows])
    pieces = torch.autograd.grad(loss, list(before.parameters()))
    gradient = torch.cat([piece.reshape(-1) for piece in pieces])
    torch.testing.assert_close(flatten(model), start - 0.5 * gradient)
    assert metrics["train_loss"] == pytest.approx(float(loss.detach()))


def test_steps_are_counted_wherever_they_matter() -> None:
    client = SgdClient(batch_size=5, local_steps=7)
    assert [client.num_steps(n) for n in (1, 12, 1000)] == [7, 7, 7]
    sgd = client.sgd_config(1)
    assert sgd is not None
    assert sgd.num_steps(12) == 7
    assert not sgd.is_full_gradient_step(4)
    one = replace(client, local_steps=1).sgd_config(1)
    assert one is not None
    assert (one.is_full_gradient_step(5), one.is_full_gradient_step(6)) == (True, False)


@pytest.mark.parametrize(
    "fields", [{"local_steps": 0}, {"local_steps": 3, "local_epochs": 2}, {"local_steps": -1}]
)
def test_a_round_has_one_length(fields: Any) -> None:
    with pytest.raises(FieldError, match="local_"):
        SgdClient(**fields)


def test_early_stopping_needs_epochs_to_stop_between() -> None:
    with pytest.raises(FieldError, match=r"sgd\.local_steps"):
        EarlyStoppingClient(sgd=SgdClient(local_steps=3))


# Worker momentum


def test_what_is_sent_is_a_running_mean_of_the_updates() -> None:
    client, shard = WorkerMomentumClient(momentum=0.8, training=STEP), shard_of(23)
    mean, model, plain = torch.zeros(15), linear(), linear()
    for number in range(1, 5):
        start = flatten(model)
        client.train(model, shard, generator(number, "client"))
        load_flat(plain, start)
        STEP.train(plain, shard, generator(number, "client"))
        mean = 0.8 * mean + 0.2 * (flatten(plain) - start)
        torch.testing.assert_close(flatten(model) - start, mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_clients", ["on", "off"])
def test_worker_momentum_survives_a_break(
    experiment: Maker, tmp_path: Path, batch_clients: Any, batched_steps: list[int]
) -> None:
    wanted = experiment(
        model=Model("fc"),
        client=WorkerMomentumClient(training=replace(STEP, learning_rate=0.1)),
        participation=Participation(clients_per_round=3),
        rounds=4,
    )

    class BreakError(Exception):
        pass

    def listen(progress: Any) -> None:
        if progress.round == 2:
            raise BreakError

    unbroken = run(wanted, out=tmp_path / "a", controls=False, batch_clients=batch_clients)
    assert bool(batched_steps) == (batch_clients == "on")
    run(wanted, out=tmp_path / "b", controls=False, batch_clients=batch_clients, listen=listen)
    resumed = run(
        wanted, out=tmp_path / "b", controls=False, batch_clients=batch_clients, resume=True
    )
    assert unbroken.cells.params_sha256[0] == resumed.cells.params_sha256[0]


def test_an_absent_client_keeps_its_momentum(experiment: Maker) -> None:
    """Client 2 comes in rounds 1 and 2, and is away after that."""
    wanted = experiment(
        client=WorkerMomentumClient(training=STEP),
        participation=Participation(stays=(AvailabilityWindow(2, last_round=2),)),
        rounds=2,
    )
    _, two, _ = played(wanted)
    _, four, _ = played(replace(wanted, rounds=4))
    kept = {client: own["worker_momentum"] for client, own in four.client_states.items()}
    assert sorted(kept) == [0, 1, 2, 3]
    assert torch.equal(kept[2], two.client_states[2]["worker_momentum"])
    assert not torch.equal(kept[1], two.client_states[1]["worker_momentum"])


# Server momentum


def test_around_a_mean_it_is_fedavgm() -> None:
    ours, theirs = ServerMomentum(0.7, 0.3, rule=FedAvg()), FedAvgM(0.7, 0.3)
    state, other = ours.initial_state(6), theirs.initial_state(6)
    weights = torch.tensor([1.0, 2.0, 5.0])
    for number in range(4):
        updates = torch.randn(3, 6, generator=generator(number, "updates"))
        state, step = ours.aggregate(state, updates, weights)
        other, expected = theirs.aggregate(other, updates, weights)
        torch.testing.assert_close(step, expected)


@pytest.mark.parametrize("rule", [FedAvg(), TrimmedMean(), MultiKrum()], ids=lambda r: str(r)[:9])
def test_the_step_is_that_of_torchs_sgd_on_the_opposite_of_the_rules(rule: Any) -> None:
    wrapper = ServerMomentum(0.7, 0.3, weight_decay=0.05, rule=rule)
    x = torch.randn(6, generator=generator(0, "x")).double()
    theirs = nn.Parameter(x.clone())
    optimiser = torch.optim.SGD([theirs], lr=0.3, momentum=0.7, weight_decay=0.05)
    state = wrapper.initial_state(6)
    for number in range(4):
        updates = torch.randn(7, 6, generator=generator(number, "updates")).double()
        context = replace(RoundContext.anonymous(7), parameters=x)
        decision = wrapper.decide(state, updates, torch.ones(7), context)
        state, x = decision.state, x + decision.step
        theirs.grad = -rule.aggregate(None, updates, torch.ones(7))[1]
        optimiser.step()
        torch.testing.assert_close(x, theirs.detach())


def test_weight_decay_needs_the_parameters() -> None:
    rule = ServerMomentum(weight_decay=0.1)
    with pytest.raises(ValueError, match="parameters"):
        rule.aggregate(rule.initial_state(3), torch.ones(2, 3), torch.ones(2))


# Attackers beside the clients


def gradient_at(federation: Federation, rows: Tensor, labels: Tensor) -> Tensor:
    loss = functional.cross_entropy(federation.model(as_floats(federation.inputs[rows])), labels)
    pieces = torch.autograd.grad(loss, list(federation.model.parameters()))
    return torch.cat([piece.reshape(-1) for piece in pieces])


@pytest.mark.parametrize("batch_clients", [True, False])
@pytest.mark.parametrize("attack", ["IPM", "ALIE", "label flip", "none"])
def test_a_run_is_the_distributed_sgd_of_byzfl(
    experiment: Maker, attack: str, batch_clients: bool, batched_steps: list[int]
) -> None:
    """The loop that ByzFL's benchmark runs, written out in terms of gradients."""
    beta, rate, decay = 0.9, 0.1, 0.01
    attacks: dict[str, Any] = {
        "IPM": IpmClient(scale=2.0),
        "ALIE": AlieClient(deviations=1.5),
        "label flip": JointLabelFlipClient(honest=STEP),
    }
    client = attacks.get(attack)
    wanted = experiment(
        model=Model("fc"),
        partition=Dirichlet(alpha=0.5),
        client=WorkerMomentumClient(momentum=beta, training=STEP),
        strategy=ServerMomentum(0.0, rate, decay, rule=FedAvg(weighted=False)),
        adversary=client and Adversary(client, num_clients=3, beside=True),
        rounds=5,
    )
    federation, state, _ = played(wanted, batch_clients)
    assert bool(batched_steps) == batch_clients
    x, momenta = federation.start.double(), torch.zeros(4, len(federation.start)).double()
    for number in range(1, 6):
        load_flat(federation.model, x.float())
        flipped = []
        for k in range(4):
            own = federation.shards.owners[k]
            rng = generator(0, "round", number, "client", k)
            rows = own[torch.randperm(len(own), generator=rng)[:5]]
            labels = federation.pool.labels[rows]
            momenta[k] = (
                beta * momenta[k] + (1 - beta) * gradient_at(federation, rows, labels).double()
            )
            flipped.append(gradient_at(federation, rows, 9 - labels).double())
        forged = {
            "IPM": -2.0 * momenta.mean(0),
            # The paper's attack subtracts from the mean update, so it adds to the gradient.
            "ALIE": momenta.mean(0) + 1.5 * momenta.std(0),
            "label flip": torch.stack(flipped).mean(0),
        }
        everybody = [*momenta, *([forged[attack]] * 3 if attack in forged else [])]
        x = x - rate * (torch.stack(everybody).mean(0) + decay * x)
    torch.testing.assert_close(state.parameters.double(), x, rtol=0, atol=2e-6)


def test_images_are_shared_out_as_without_attackers(experiment: Maker) -> None:
    alone = experiment(partition=Dirichlet(alpha=0.3))
    beside = replace(alone, adversary=Adversary(AlieClient(), num_clients=3, beside=True))
    one, other = prepare_federation(alone), prepare_federation(beside)
    assert torch.equal(one.pool.clients, other.pool.clients)
    assert (one.num_clients, other.num_clients, other.experiment.clients_per_round) == (4, 7, 7)
    sizes = other.shards.sizes
    assert sizes[:4] == one.shards.sizes
    assert sizes[4:] == [round(sum(sizes[:4]) / 4)] * 3
    assert [len(own) for own in other.shards.owners[4:]] == [0, 0, 0]
    assert other.clients_with_data == list(range(7))
    assert other.class_counts[4:].sum() == 0


def test_attackers_beside_are_there_in_the_rounds_of_their_attack(experiment: Maker) -> None:
    window = Adversary(AlieClient(), num_clients=2, beside=True, first_round=2, last_round=3)
    second = Adversary(IpmClient(), beside=True, every=2)
    schedule = Schedule(experiment(adversary=(window, second, Adversary(SignFlipClient()))))
    asked = [schedule.choose_clients(number, list(range(7))) for number in (1, 2, 3, 4)]
    assert [own[4:] for own in asked] == [[6], [4, 5], [4, 5, 6], []]
    assert all(own[:4] == [0, 1, 2, 3] for own in asked)
    assert [len(schedule.attackers(number)) for number in (1, 2, 3, 4)] == [2, 3, 4, 1]


def test_what_does_not_collude_works_on_a_copy_of_honest_images(experiment: Maker) -> None:
    flip = Adversary(SignFlipClient(), num_clients=6, beside=True)
    federation = prepare_federation(experiment(adversary=flip))
    owners = federation.shards.owners
    assert all(torch.equal(owners[4 + j], owners[j % 4]) for j in range(6))
    _, _, seen = played(experiment(adversary=flip, rounds=1))
    losses = {r.client: r.value for r in seen[0].rows if r.metric == "train_loss"}
    assert sorted(losses) == list(range(10))


def test_who_holds_nothing_reports_no_number(experiment: Maker) -> None:
    _, _, seen = played(
        experiment(adversary=Adversary(AlieClient(), num_clients=2, beside=True), rounds=1)
    )
    rows = [r for r in seen[0].rows if r.client in (4, 5)]
    losses = [r for r in rows if r.metric in ("train_loss", "train_accuracy", "client_accuracy")]
    assert len(losses) == 6
    assert not any(r.valid for r in losses)
    assert all(r.note for r in losses)
    overall = {r.metric: r.value for r in seen[0].rows if r.client == -1 and r.group == "all"}
    assert overall["fairness_mean"] == overall["fairness_mean"]


def test_who_holds_nothing_has_no_part_in_what_clients_give_and_get(experiment: Maker) -> None:
    asked = Evaluation(contributions="leave_one_out", alone=SgdClient())
    adversary = Adversary(IpmClient(), num_clients=2, beside=True)
    _, _, seen = played(experiment(adversary=adversary, evaluation=asked, rounds=1))
    rows = [row for row in seen[0].rows if row.metric == "contribution_cosine"]
    assert {row.client: row.valid for row in rows} == dict.fromkeys(range(6), True)
    assert {r.client for r in seen[0].rows if r.metric == "client_benefit"} == {0, 1, 2, 3}
    cosines = torch.tensor([row.value for row in rows])[:4].double()
    got = {r.client: r.value for r in seen[0].rows if r.metric == "client_accuracy"}
    expected = torch.corrcoef(torch.stack([cosines, torch.tensor([got[k] for k in range(4)])]))
    (told,) = (r for r in seen[0].rows if r.metric == "fairness_collaboration_cosine")
    assert told.value == pytest.approx(float(expected[0, 1]), abs=1e-6)


@pytest.mark.parametrize(
    "rule",
    [AFL(), SCAFFOLD(), flower.FedAvg(min_train_nodes=1, min_available_nodes=1)],
    ids=lambda r: type(r).__name__,
)
def test_any_rule_takes_attackers_beside_the_clients(experiment: Maker, rule: Any) -> None:
    client = ScaffoldClient() if isinstance(rule, SCAFFOLD) else SgdClient()
    adversary = Adversary(IpmClient(scale=0.5), num_clients=2, beside=True)
    _, state, seen = played(experiment(strategy=rule, client=client, adversary=adversary))
    assert bool(state.parameters.isfinite().all())
    assert [each.failures for each in seen] == [[], []]
    if isinstance(rule, SCAFFOLD):
        assert float(state.server.state.norm()) > 0  # control variates still come in


def test_attackers_beside_weigh_as_much_as_honest_clients_do(experiment: Maker) -> None:
    adversary = Adversary(IpmClient(scale=1.0), num_clients=4, beside=True)
    equal = experiment(adversary=adversary, partition=Iid(), strategy=FedAvg(weighted=False))
    _, state, _ = played(equal)
    start = prepare_federation(
        equal
    ).start  # as many opposites of the mean as honest updates: no step
    torch.testing.assert_close(state.parameters, start, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [{"share": 0.5}, {"clients": (1,)}, {"among": "clean"}, {"drawn": "each_round"}],
    ids=str,
)
def test_attackers_beside_are_given_by_number(fields: Any) -> None:
    with pytest.raises(FieldError, match="beside"):
        Adversary(AlieClient(), beside=True, **fields)


def test_without_attackers_beside_the_json_is_as_it_was(experiment: Maker) -> None:
    described = experiment(adversary=Adversary(AlieClient())).describe()
    assert "beside" not in described["adversary"]
    assert "local_steps" not in described["client"]
    assert "weighted" not in described["strategy"]
