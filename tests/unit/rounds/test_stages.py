"""A rule that changes with the round: bits of each stage, its state, resuming, sums and stacks."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fl_sim import AvailabilityWindow, Data, Experiment, Model, Participation, run
from fl_sim.config import validation
from fl_sim.contracts import Update
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.federation.federation import prepare_federation
from fl_sim.rounds.accumulator import RoundUpdates
from fl_sim.rounds.loop import can_sum_updates
from fl_sim.rounds.server import RuleServer, make_context
from fl_sim.training.tasks import RoundConfig
from strategies.bucketing import Bucketing
from strategies.differential_privacy import DifferentialPrivacy
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.krum import Krum
from strategies.stages import Stages
from strategies.trimmed_mean import TrimmedMean
from tests.unit.rounds.test_reproducibility import broken_after, final_bits

Maker = Callable[..., Experiment]
MOMENTUM = Stages((1, TrimmedMean(1)), (2, FedAvgM()), (4, Krum(1)))


def advance(server: RuleServer, round_num: int, deltas: torch.Tensor) -> torch.Tensor:
    """Return the step of a round from parameters of zero, from stacked updates."""
    clients = list(range(len(deltas)))
    context = make_context(clients, [1] * len(clients), len(clients), round_num, 0)
    config = RoundConfig(round_num, torch.zeros(deltas.shape[1], dtype=deltas.dtype), {})
    weights = torch.ones(len(clients), dtype=torch.float64)
    plan = server.plan(config, context, weights)
    updates = [Update(client, None, {}, 1, {}) for client in clients]
    return server.advance(plan, RoundUpdates(updates, deltas, None, []), context)[0]


def test_each_stage_aggregates_its_rounds_with_a_state_of_its_own() -> None:
    rng = torch.Generator().manual_seed(0)
    deltas = [torch.randn(6, 5, generator=rng, dtype=torch.float64) for _ in range(5)]
    server, momentum = RuleServer(MOMENTUM, 5), RuleServer(FedAvgM(), 5)
    steps = [advance(server, i, rows) for i, rows in enumerate(deltas, 1)]
    assert torch.equal(steps[0], advance(RuleServer(TrimmedMean(1), 5), 1, deltas[0]))
    for place in (1, 2):  # as if the run had started with the stage
        assert torch.equal(steps[place], advance(momentum, place + 1, deltas[place]))
    for place in (3, 4):
        assert torch.equal(steps[place], advance(RuleServer(Krum(1), 5), place + 1, deltas[place]))
    rule, state = server.reveal_rule()
    assert (rule, state) == (Krum(1), None)


def test_a_run_resumes_in_the_middle_of_a_stage(experiment: Maker, tmp_path: Path) -> None:
    data = Data(dataset="digits", num_clients=5, num_samples=120, num_test=30)
    wanted = experiment(strategy=MOMENTUM, rounds=4, data=data, model=Model("linear"))
    unbroken = final_bits(wanted, tmp_path / "a")
    run(wanted, out=tmp_path / "b", controls=False, listen=broken_after(2))
    assert final_bits(wanted, tmp_path / "b", resume=True) == unbroken


def test_updates_are_summed_in_the_rounds_of_a_linear_stage(experiment: Maker) -> None:
    federation = prepare_federation(experiment(strategy=MOMENTUM, rounds=4))
    assert [can_sum_updates(federation, i) for i in range(1, 5)] == [False, True, True, False]


def test_stages_survive_json_and_have_paths(experiment: Maker) -> None:
    wanted = experiment(strategy=MOMENTUM, rounds=4)
    assert Experiment.from_json(wanted.to_json()) == wanted
    changed = wanted.with_value("strategy.stages.2.rule.num_byzantine", 0)
    assert changed.strategy == Stages((1, TrimmedMean(1)), (2, FedAvgM()), (4, Krum(0)))
    assert str(MOMENTUM) == "TrimmedMean, then FedAvgM from round 2, then Krum from round 4"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stages((2, FedAvg())), "from round 1; got '\\(2,\\)'"),
        (lambda: Stages((1, FedAvg()), (1, FedAvg())), "in order of their first rounds"),
        (lambda: Stages((1, MOMENTUM)), "has no stages itself"),
    ],
)
def test_wrong_stages_are_refused(make: Callable[[], Stages], message: str) -> None:
    with pytest.raises(FieldError, match=message):
        make()


def test_stages_that_cannot_be_run_are_refused(experiment: Maker) -> None:
    with pytest.raises(FieldError, match=r"stages within rounds = 2; got 'round 4'"):
        validation.check(experiment(strategy=MOMENTUM))
    with pytest.raises(FieldError, match=r"Krum\(num_byzantine=1\) needs 2f\+3 = 5 clients"):
        validation.check(experiment(strategy=MOMENTUM, rounds=4))
    with pytest.raises(FieldError, match=r"strategy.rule: .*does not change with the round"):
        validation.check(experiment(strategy=Bucketing(rule=Stages((1, FedAvg()), (2, FedAvg())))))
    private = Stages((1, DifferentialPrivacy()), (2, FedAvg()))
    with pytest.raises(RequestError, match="no guarantee is known"):
        private.releases(())


def test_a_stage_needs_its_clients_in_its_own_rounds_alone(experiment: Maker) -> None:
    data = Data(dataset="digits", num_clients=5, num_samples=120, num_test=30)
    rule = Stages((1, FedAvg()), (2, Krum(1)))
    late = Participation(stays=(AvailabilityWindow(0, first_round=2),))
    validation.check(experiment(strategy=rule, data=data, participation=late))
    early = Participation(stays=(AvailabilityWindow(0, last_round=1),))
    with pytest.raises(FieldError, match="at least 5 clients in every round; got '4 in round 2'"):
        validation.check(experiment(strategy=rule, data=data, participation=early))
