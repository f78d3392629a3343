"""The end of a run: after its last round, or before if `Experiment.stop` says so."""

import math
from collections.abc import Iterable, Iterator, Sequence

from fl_sim.contracts import Row
from fl_sim.core.errors import RunFailedError, shorten
from fl_sim.experiment import Experiment
from fl_sim.rounds.state import State


def is_over(experiment: Experiment, round_num: int, watched: Sequence[float]) -> bool:
    """Return whether a run ends after a round: its last one, or by `stop`.

    Args:
        experiment: The experiment.
        round_num: Number of the round.
        watched: The metric of `stop` after each evaluated round so far.
    """
    stop = experiment.stop
    return round_num >= experiment.rounds or (stop is not None and stop.is_over(watched))


def watch(experiment: Experiment, state: State, rows: Iterable[Row]) -> None:
    """Add the metric of `stop` to the state.

    Raises:
        RunFailedError: If an evaluated round does not have it.
    """
    if experiment.stop is None:
        return
    wanted = experiment.stop.metric
    whole = [row for row in rows if row.client == -1 and row.group == "all"]
    values = [row.value if row.valid else math.nan for row in whole if row.metric == wanted]
    if not values:
        known = ", ".join(sorted({row.metric for row in whole}))
        raise RunFailedError(f"stop.metric: one of {known}; got {shorten(wanted)}")
    state.watched = [*state.watched, values[0]]


def stop_rows(experiment: Experiment, state: State) -> Iterator[Row]:
    """Yield the round in which `stop` ended a run; NaN after the last round if it did not."""
    stop = experiment.stop
    if stop is None or not is_over(experiment, state.round, state.watched):
        return
    name = f"{stop.metric} has not become {stop.better} for {stop.patience} evaluations"
    if stop.is_over(state.watched):
        yield Row(state.round, "stop_round", float(state.round), note=name)
    else:
        note = "the run has gone to its last round"
        yield Row(state.round, "stop_round", math.nan, valid=False, note=note)
