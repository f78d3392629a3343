"""Our rules against Flower's own strategies, where both are defined alike.

Known differences, and how the comparison deals with them (measured for flwr 1.41):
- Flower averages parameters in float32, ours updates in float64: they agree to a few units in
  the last place of a float32 parameter. Parameters here are below 8, so 4e-6 is allowed.
- Flower weights Multi-Krum by the examples that clients claim, ours does not: equal claims.
- Flower's trimmed mean cuts a share, int(share * n), ours a number: shares that give it.
- Flower's Krum has distances in float32 on parameters: large, well separated updates.
- The second moment of Flower's FedAdagrad, FedAdam and FedYogi starts at zero, the paper's and
  ours at tau squared; Flower's FedAdam corrects Adam's bias, with exponents from two on.
- Flower's momentum starts with the first update; from a velocity at rest that is the same.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fl_sim.contracts import AggregationRule, RoundContext, Update
from fl_sim.core.seeding import generator
from fl_sim.flower import compat
from fl_sim.flower.records import Shapes, from_record, to_record
from fl_sim.flower.roster import ClientRoster, make_replies
from fl_sim.flower.rule_strategy import RuleStrategy
from strategies.fedadagrad import FedAdagrad
from strategies.fedadam import FedAdam
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.fedyogi import FedYogi
from strategies.krum import Krum, MultiKrum
from strategies.median import CoordinateMedian
from strategies.q_fedavg import QFedAvg
from strategies.trimmed_mean import TrimmedMean

SHAPES: Shapes = {"front.weight": (4, 3, 2), "front.bias": (4,), "head.weight": (5, 6)}
SIZE = 4 * 3 * 2 + 4 + 5 * 6
TOLERANCE = 4e-6
CLIENTS, ATTACKERS = 11, 2
NODES: dict[str, Any] = {"min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}


class Server:
    """Drives a strategy as the loop does, from given parameters."""

    def __init__(self, strategy: Strategy, start: Tensor) -> None:
        compat.ensure_node_identity()
        self.strategy, self.parameters, self.round = strategy, start.clone(), 0

    def after(
        self, received: Tensor, examples: list[int], losses: list[float] | None = None
    ) -> Tensor:
        """Return the global parameters after a round in which clients sent `received`."""
        self.round += 1
        instructions = list(
            self.strategy.configure_train(
                self.round,
                to_record(self.parameters, SHAPES),
                ConfigRecord(),
                ClientRoster(list(range(len(received)))),
            )
        )
        for instruction in instructions:
            compat.assign_message_id(instruction)
        updates = [
            Update(client, own, {}, count, {"train_loss": losses[client] if losses else 1.0})
            for client, (own, count) in enumerate(zip(received, examples, strict=True))
        ]
        arrays, _ = self.strategy.aggregate_train(
            self.round, make_replies(updates, received, instructions, SHAPES)
        )
        assert isinstance(arrays, ArrayRecord)
        self.parameters = from_record(arrays, SHAPES)
        return self.parameters


def ours(rule: AggregationRule, start: Tensor) -> Server:
    return Server(RuleStrategy(rule, **NODES), start)


def drawn(seed: int) -> tuple[Tensor, Tensor, list[int]]:
    """Return global parameters, and the updates and example counts of eleven clients."""
    rng = generator(seed, "flower")
    start = torch.randn(SIZE, generator=rng)
    received = start + torch.randn(CLIENTS, SIZE, generator=rng)
    received[:ATTACKERS] += 1.5 * torch.randn(ATTACKERS, SIZE, generator=rng)
    return start, received, torch.randint(1, 100, (CLIENTS,), generator=rng).tolist()


def is_close(one: Tensor, other: Tensor) -> bool:
    return bool(torch.allclose(one, other, rtol=0, atol=TOLERANCE))


PAIRS: list[Any] = [
    pytest.param(FedAvg(), lambda: flower.FedAvg(**NODES), False, id="FedAvg"),
    pytest.param(CoordinateMedian(), lambda: flower.FedMedian(**NODES), False, id="median"),
    pytest.param(
        TrimmedMean(num_byzantine=ATTACKERS),
        lambda: flower.FedTrimmedAvg(**NODES, beta=0.2),  # int(0.2 * 11) = 2
        False,
        id="trimmed mean",
    ),
    pytest.param(
        Krum(num_byzantine=ATTACKERS),
        lambda: flower.Krum(**NODES, num_malicious_nodes=ATTACKERS),
        False,
        id="Krum",
    ),
    pytest.param(
        MultiKrum(num_byzantine=ATTACKERS),
        lambda: flower.MultiKrum(
            **NODES, num_malicious_nodes=ATTACKERS, num_nodes_to_select=CLIENTS - ATTACKERS
        ),
        True,
        id="Multi-Krum, n - f",
    ),
    pytest.param(
        MultiKrum(num_byzantine=ATTACKERS, num_selected=4),
        lambda: flower.MultiKrum(**NODES, num_malicious_nodes=ATTACKERS, num_nodes_to_select=4),
        True,
        id="Multi-Krum, 4",
    ),
]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("rule", "theirs", "equal_claims"), PAIRS)
def test_a_round_of_ours_is_a_round_of_flowers(
    rule: AggregationRule, theirs: Callable[[], Strategy], equal_claims: bool, seed: int
) -> None:
    start, received, examples = drawn(seed)
    if equal_claims:
        examples = [10] * CLIENTS
    expected = Server(theirs(), start).after(received, examples)
    assert is_close(ours(rule, start).after(received, examples), expected)


@pytest.mark.parametrize("seed", range(5))
def test_momentum_is_flowers_over_several_rounds(seed: int) -> None:
    start, received, examples = drawn(seed)
    theirs = flower.FedAvgM(**NODES, server_momentum=0.9, server_learning_rate=0.5)
    peer = Server(theirs, start)
    own = ours(FedAvgM(momentum=0.9, server_learning_rate=0.5), start)
    moves = received - start
    for number in range(4):
        sent = peer.parameters + moves.roll(number, 0)
        expected = peer.after(sent, examples)
        assert is_close(own.after(sent, examples), expected)


def adaptive_pair(name: str, tau: float) -> tuple[AggregationRule, Any]:
    """Return a rule and Flower's strategy of the same name, with equal settings."""
    decay = {} if name == "FedAdagrad" else {"beta_1": 0.9, "beta_2": 0.99}
    theirs = getattr(flower, name)(**NODES, eta=0.01, tau=tau, **decay)
    rules = {
        "FedAdagrad": FedAdagrad(server_learning_rate=0.01, adaptivity=tau),
        "FedAdam": FedAdam(server_learning_rate=0.01, adaptivity=tau),
        "FedYogi": FedYogi(server_learning_rate=0.01, adaptivity=tau),
    }
    return rules[name], theirs


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["FedAdagrad", "FedAdam", "FedYogi"])
def test_adaptive_steps_are_flowers_but_for_the_start_and_the_bias(name: str, seed: int) -> None:
    tau = 0.1
    start, received, examples = drawn(seed)
    rule, theirs = adaptive_pair(name, tau)
    theirs.v_t = {key: np.full(shape, tau**2) for key, shape in SHAPES.items()}
    peer, own = Server(theirs, start), ours(rule, start)
    moves = received - start
    for number in range(1, 6):
        before = own.parameters
        peer.parameters = before
        expected = peer.after(before + moves.roll(number, 0), examples) - before
        if name == "FedAdam":
            expected *= (1 - 0.9 ** (number + 1)) / (1 - 0.99 ** (number + 1)) ** 0.5
        after = own.after(before + moves.roll(number, 0), examples)
        assert is_close(after - before, expected)
        assert float((after - before).abs().max()) > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["FedAdagrad", "FedYogi"])
def test_the_start_of_the_second_moment_hardly_matters(name: str) -> None:
    start, received, examples = drawn(0)
    rule, theirs = adaptive_pair(name, 1e-3)
    expected = Server(theirs, start).after(received, examples) - start
    step = ours(rule, start).after(received, examples) - start
    weights = torch.tensor(examples) / sum(examples)
    large = (weights @ (received - start)).abs() > 0.1
    assert not torch.equal(step, expected)
    assert bool(torch.isclose(step, expected, rtol=0.01, atol=0)[large].all())


def test_flowers_first_step_of_adam_is_a_quarter_smaller() -> None:
    start, received, examples = drawn(0)
    rule, theirs = adaptive_pair("FedAdam", 1e-3)
    expected = Server(theirs, start).after(received, examples) - start
    step = ours(rule, start).after(received, examples) - start
    assert 0.73 < float((expected / step).median()) < 0.76


def test_a_comparison_would_notice_a_wrong_weight() -> None:
    start, received, examples = drawn(0)
    wrong = examples[1:] + examples[:1]
    expected = Server(flower.FedAvg(**NODES), start).after(received, examples)
    assert not is_close(ours(FedAvg(), start).after(received, wrong), expected)


@pytest.mark.parametrize("num_byzantine", [1, 3])
def test_a_comparison_would_notice_a_wrong_number_of_attackers(num_byzantine: int) -> None:
    theirs = lambda: flower.FedTrimmedAvg(**NODES, beta=0.2)  # noqa: E731
    start, received, examples = drawn(0)
    expected = Server(theirs(), start).after(received, examples)
    rule = TrimmedMean(num_byzantine=num_byzantine)
    assert not is_close(ours(rule, start).after(received, examples), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "q"), [(0, 0.1), (1, 1.0), (2, 1.0)])
def test_q_fedavg_of_equal_shards_is_flowers(seed: int, q: float) -> None:
    """Flower's takes the loss that clients claim and no weights: equal ones, here."""
    start, received, _ = drawn(seed)
    losses = 0.5 + torch.rand(CLIENTS, generator=generator(seed, "losses"))
    theirs = flower.QFedAvg(**NODES, client_learning_rate=0.05, q=q)
    expected = Server(theirs, start).after(received, [10] * CLIENTS, losses.tolist()) - start
    context = replace(RoundContext.anonymous(CLIENTS), losses=losses.double())
    rule = QFedAvg(q=q, client_learning_rate=0.05)
    step = rule.decide(None, received - start, torch.ones(CLIENTS), context).step
    # Flower works in float32 and squares gradients twenty times as large as updates.
    torch.testing.assert_close(step, expected, rtol=1e-3, atol=2 * TOLERANCE)
