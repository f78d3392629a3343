"""Pacing of an engine in a child process: one round per command of the parent.

The parent writes `go`; the child runs a round and answers `done`. Between its turns a child is
stopped, so that all engines can be alive at once, take turns, and share the drift of the machine.
"""

import os
from typing import TextIO

import torch


class Pacer:
    """The child's end of the two pipes, used by one thread."""

    def __init__(self, commands: int, replies: int, rounds_per_turn: int = 1) -> None:
        """Open the two file descriptors."""
        self.commands: TextIO = os.fdopen(commands)
        self.replies: TextIO = os.fdopen(replies, "w", buffering=1)
        self.rounds_per_turn = rounds_per_turn
        self.count = 0

    def wait(self) -> None:
        """Report the rounds that were run, if any, and wait for the next turn."""
        if self.count % self.rounds_per_turn == 0:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()  # kernels of this turn may still run
            self.replies.write("done\n" if self.count else "ready\n")
            if not self.commands.readline():
                os._exit(0)  # the parent is gone
        self.count += 1


class NoPacer(Pacer):
    """A pacer that never waits."""

    def __init__(self) -> None:
        """Open nothing."""

    def wait(self) -> None:
        """Return at once."""
