"""Turns: an engine in a child process does one round when it is told to.

The parent writes `go`; the child does a round and answers `done`. Between its turns a child
stands still, so all engines can be alive at once, take turns, and share the machine's drift.
"""

import os
from typing import TextIO


class Pacer:
    """The child's side of the conversation; one thread of the child calls it."""

    def __init__(self, commands: int, replies: int, rounds_per_turn: int = 1) -> None:
        """Talk over two file descriptors; a turn is one round, or some."""
        self.commands: TextIO = os.fdopen(commands)
        self.replies: TextIO = os.fdopen(replies, "w", buffering=1)
        self.rounds_per_turn = rounds_per_turn
        self.count = 0

    def wait(self) -> None:
        """Report what has been done, if anything, and wait for the next round's turn."""
        if self.count % self.rounds_per_turn == 0:
            self.replies.write("done\n" if self.count else "ready\n")
            if not self.commands.readline():
                os._exit(0)  # the parent is gone
        self.count += 1


class NoPacer(Pacer):
    """No turns: the engine runs its rounds without stopping."""

    def __init__(self) -> None:
        """Talk to nobody."""

    def wait(self) -> None:
        """Go on."""
