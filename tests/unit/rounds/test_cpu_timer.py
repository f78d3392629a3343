"""CPU time of a round: differences by process, and the cases in which it is unknown."""

import math
from collections.abc import Callable
from time import process_time
from unittest.mock import create_autospec

from flwr.serverapp import Grid

from fl_sim.backends.base import CpuSeconds, InProcessBackend
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import prepare_federation
from fl_sim.flower.backend import FlowerBackend
from fl_sim.rounds.cpu_timer import CpuTimer, subtract_cpu_seconds
from fl_sim.rounds.loop import create_state, run_rounds
from fl_sim.rounds.server import RuleServer
from fl_sim.training.client_trainer import make_trainer
from strategies.fedavg import FedAvg


def test_time_is_counted_by_process() -> None:
    assert subtract_cpu_seconds({"a": 5.0, "b": 1.0}, {"a": 7.0, "b": 1.5, "c": 0.25}) == (2.75, "")


def test_time_that_went_with_a_worker_is_not_known() -> None:
    seconds, note = subtract_cpu_seconds({"a": 5.0, "b": 1.0}, {"a": 7.0})
    assert math.isnan(seconds)
    assert note == "a worker came to an end in this round, with what it had used"


def test_a_backend_that_does_not_say_gives_its_reason() -> None:
    for before, after in (({"a": 1.0}, "no answer"), ("no answer", {"a": 1.0})):
        seconds, note = subtract_cpu_seconds(before, after)
        assert math.isnan(seconds)
        assert note == "no answer"


class Other(InProcessBackend):
    """A backend whose workers say nothing."""

    def cpu_seconds(self) -> CpuSeconds:
        return "nobody says"


def test_every_round_says_what_it_took(experiment: Callable[..., Experiment]) -> None:
    federation = prepare_federation(experiment())
    for backend, note in ((InProcessBackend, ""), (Other, "nobody says")):
        before = process_time()
        state = create_state(federation, RuleServer(FedAvg(), len(federation.start)))
        played = [
            row
            for own in run_rounds(federation, state, backend(make_trainer(federation)))
            for row in own.rows
            if row.metric == "cpu_seconds"
        ]
        assert [row.round for row in played] == [1, 2]
        assert all((row.valid, row.note) == (not note, note) for row in played)
        if not note:
            spent = sum(row.value for row in played)
            assert 0 < spent <= process_time() - before


def test_nodes_elsewhere_do_not_say(experiment: Callable[..., Experiment]) -> None:
    federation = prepare_federation(experiment())
    backend = FlowerBackend(make_trainer(federation), create_autospec(Grid, instance=True))
    seconds, note = CpuTimer(backend).measure()
    assert math.isnan(seconds)
    assert note == "Flower's nodes do not say what they use"
