"""Replays of an experiment in memory, without writing any files."""

from collections.abc import Iterator, Sequence

from torch import nn

from fl_sim.backends.base import InProcessBackend
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import Federation, load_federation
from fl_sim.models import parameters
from fl_sim.rounds.callbacks import Callback
from fl_sim.rounds.loop import run_rounds
from fl_sim.rounds.state import RoundOutcome
from fl_sim.runs.single_run import make_initial_state
from fl_sim.training.client_trainer import make_trainer


def replay(
    federation: Federation, batch_clients: bool = False, callbacks: Sequence[Callback] = ()
) -> Iterator[RoundOutcome]:
    """Run all rounds in this process, and yield the outcome of each.

    Args:
        federation: The federation before its first round.
        batch_clients: Whether many clients are trained as one batch, as in the run.
        callbacks: Called at the hooks of each round.
    """
    state = make_initial_state(federation, batch_clients)
    return run_rounds(federation, state, InProcessBackend(make_trainer(federation)), callbacks)


def models_by_round(experiment: Experiment) -> Iterator[tuple[Federation, int, nn.Sequential]]:
    """Yield the federation, round and global model of each round; the next overwrites the model."""
    federation = load_federation(experiment.to_json())
    for outcome in replay(federation):
        state = outcome.state
        parameters.load_flat(federation.model, state.parameters)
        parameters.load_buffers(federation.model, state.buffers)
        yield federation, state.round, federation.model
