"""Turns: an engine in a child process does one round when it is told to.

The parent writes `go`; the child does a round and answers `done`. Between its turns a child
stands still, so all engines can be alive at once, take turns, and share the machine's drift.
"""

import os
from typing import TextIO


class Turns:
    """The child's side of the conversation; one thread of the child calls it."""

    def __init__(self, orders: int, answers: int) -> None:
        """Talk over two file descriptors."""
        self.orders: TextIO = os.fdopen(orders)
        self.answers: TextIO = os.fdopen(answers, "w", buffering=1)
        self.begun = False

    def next(self) -> None:
        """Report that a round has ended, if one had begun, and wait for the next one's turn."""
        self.answers.write("done\n" if self.begun else "ready\n")
        self.begun = True
        if not self.orders.readline():
            os._exit(0)  # the parent is gone


class AllAtOnce(Turns):
    """No turns: the engine runs its rounds without stopping."""

    def __init__(self) -> None:
        """Talk to nobody."""

    def next(self) -> None:
        """Go on."""
