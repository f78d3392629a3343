"""Helpers of all commands: the terminal, exits, and imports that can be interrupted."""

import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.console import Console

    console: Console


def __getattr__(name: str) -> Any:
    """Return `console`, made on first use: importing rich takes as long as all else of --help."""
    if name != "console":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rich.console import Console

    globals()["console"] = Console()
    return globals()["console"]


def stop(message: str, code: int) -> NoReturn:
    """Print a message on standard error, and exit with `code`."""
    print(message, file=sys.stderr)
    sys.exit(code)


def print_error(message: str) -> None:
    """Print a message on standard error, in one line."""
    print(" ".join(message.split()), file=sys.stderr)


def report_damage(lines: Iterable[str]) -> None:
    """Print a line for each file that is damaged, and exit with 1 if there are any."""
    damaged = list(lines)
    for line in damaged:
        print_error(f"damaged: {line}")
    if damaged:
        sys.exit(1)


@contextmanager
def importing() -> Iterator[None]:
    """Let an interrupt end the process quietly while modules are imported, which takes seconds.

    A partial import can be neither finished nor reported. Where interrupts are ignored, as in the
    background of a shell, or have another handler, this is left as it is.
    """
    is_default = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if is_default:
        signal.signal(signal.SIGINT, _quit)
    try:
        yield
    finally:
        if is_default:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _quit(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted before it began\n")
    os._exit(128 + number)
