"""Turns: an engine in a child process does one round when it is told to.

The parent writes `go`; the child does a round and answers `done`. Between its turns a child
stands still, so all engines can be alive at once, take turns, and share the machine's drift.
"""

import os
from typing import TextIO


class Turns:
    """The child's side of the conversation; one thread of the child calls it."""

    def __init__(self, orders: int, answers: int, rounds_a_turn: int = 1) -> None:
        """Talk over two file descriptors; a turn is one round, or some."""
        self.orders: TextIO = os.fdopen(orders)
        self.answers: TextIO = os.fdopen(answers, "w", buffering=1)
        self.rounds_a_turn = rounds_a_turn
        self.count = 0

    def next(self) -> None:
        """Report what has been done, if anything, and wait for the next round's turn."""
        if self.count % self.rounds_a_turn == 0:
            self.answers.write("done\n" if self.count else "ready\n")
            if not self.orders.readline():
                os._exit(0)  # the parent is gone
        self.count += 1


class AllAtOnce(Turns):
    """No turns: the engine runs its rounds without stopping."""

    def __init__(self) -> None:
        """Talk to nobody."""

    def next(self) -> None:
        """Go on."""
