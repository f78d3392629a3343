"""A run again, in memory: the global model of each round, for whoever wants to look at it."""

from collections.abc import Iterator

from torch import nn

from fl_sim.engine.crew import Crew, LocalCrew
from fl_sim.engine.federation import Federation, federation
from fl_sim.engine.loop import State, initial_state, rounds
from fl_sim.engine.server import server_for
from fl_sim.experiment import Experiment
from fl_sim.models import parameters


def states(ours: Federation, crew: Crew, cohort: bool = False) -> Iterator[State]:
    """Yield the state after each round of a federation; nothing is written.

    Args:
        ours: the federation.
        crew: who trains; it may watch.
        cohort: whether small models are trained many at once.
    """
    # Fresh: Flower's strategies remember earlier runs.
    experiment = Experiment.from_json(ours.experiment.to_json())
    shapes = parameters.shapes(ours.model)
    server = server_for(experiment.strategy, ours.start, shapes, experiment.seed)
    state = initial_state(ours, server)
    state.cohort = cohort
    for _ in rounds(ours, state, crew):
        yield state


def models_by_round(experiment: Experiment) -> Iterator[tuple[Federation, int, nn.Sequential]]:
    """Yield the federation, the round, and its global model, which the next round overwrites."""
    ours = federation(experiment.to_json())
    for state in states(ours, LocalCrew(ours.workshop)):
        parameters.load_flat(ours.model, state.parameters)
        parameters.load_buffers(ours.model, state.buffers)
        yield ours, state.round, ours.model
