"""Entry point of `fl-sim` and of `python -m fl_sim`, which an interrupt ends quietly at once."""

import os
import signal
from types import FrameType


def main() -> None:
    """Import the command line, and run it."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as in the background of a shell
    if not ignored:
        signal.signal(signal.SIGINT, _quit)
    from fl_sim.cli import main as run

    if not ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _quit(number: int, frame: FrameType | None) -> None:
    """End the process at once, since a partial import can be neither finished nor reported."""
    os.write(2, b"interrupted before it began\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
