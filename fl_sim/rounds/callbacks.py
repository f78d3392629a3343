"""Callbacks: hooks of the training loop, for progress, checkpoints, trackers and user code."""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Literal

from fl_sim.contracts import Update
from fl_sim.federation.federation import Federation
from fl_sim.rounds.state import RoundOutcome, State
from fl_sim.training.tasks import RoundConfig

Phase = Literal["training", "aggregation", "evaluation", "metrics"]


class Callback:
    """Base class of callbacks. Override the hooks that are needed; the others do nothing.

    Callbacks are called in the order in which they were given. They must not change what they
    are passed: the run would no longer be that of its experiment. An exception ends the run,
    which is recorded as failed. One callback hears all runs of a request, controls included, but
    no run that had finished before. With several workers it is copied into each of their
    processes: write to a file what it collects.

    >>> class BestAccuracy(Callback):
    ...     best = 0.0
    ...
    ...     def on_round_end(self, outcome: RoundOutcome) -> None:
    ...         values = [row.value for row in outcome.rows if row.metric == "accuracy"]
    ...         self.best = max(self.best, *values)
    """

    def on_run_start(self, federation: Federation, state: State) -> None:
        """Called before the first round that is run, with the state that it starts from."""

    def on_round_start(self, config: RoundConfig) -> None:
        """Called before the clients of a round are trained."""

    def on_phase_start(self, phase: Phase) -> None:
        """Called when a phase of a round begins; it lasts until the next, or the round's end."""

    def on_client_update(self, config: RoundConfig, update: Update) -> None:
        """Called with each update before it is aggregated, in the order in which they are made.

        Only the engine `local` calls it, without a ClientApp; a run that cannot is refused.
        """

    def on_round_end(self, outcome: RoundOutcome) -> None:
        """Called at the end of a round, with its measurements."""

    def on_run_end(self, error: BaseException | None) -> None:
        """Called once after the last round, or with the error that ended the run."""


class CallbackList(Callback):
    """Passes each hook on to several callbacks, in order."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        """Hold `callbacks`."""
        self.callbacks = tuple(callbacks)

    @property
    def watches_updates(self) -> bool:
        """True if any callback overrides `on_client_update`."""
        hooks = (callback.on_client_update for callback in self.callbacks)
        return any(getattr(h, "__func__", h) is not Callback.on_client_update for h in hooks)

    def on_run_start(self, federation: Federation, state: State) -> None:
        """Pass the hook on."""
        for callback in self.callbacks:
            callback.on_run_start(federation, state)

    def on_round_start(self, config: RoundConfig) -> None:
        """Pass the hook on."""
        for callback in self.callbacks:
            callback.on_round_start(config)

    def on_phase_start(self, phase: Phase) -> None:
        """Pass the hook on."""
        for callback in self.callbacks:
            callback.on_phase_start(phase)

    def on_client_update(self, config: RoundConfig, update: Update) -> None:
        """Pass the hook on."""
        for callback in self.callbacks:
            callback.on_client_update(config, update)

    def on_round_end(self, outcome: RoundOutcome) -> None:
        """Pass the hook on."""
        for callback in self.callbacks:
            callback.on_round_end(outcome)

    def on_run_end(self, error: BaseException | None) -> None:
        """Pass the hook on, to all callbacks even if it raises in one of them."""
        with ExitStack() as stack:  # calls in reverse
            for callback in reversed(self.callbacks):
                stack.callback(callback.on_run_end, error)
