"""Outcomes of one input: accepted, refused, or a fault."""

import contextlib
import io
import json
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from fl_sim import cli
from fl_sim.core.errors import RequestError, RunFailedError

LIMIT = 120  # seconds for one input; more is a fault
Ending = Literal["accepted", "refused", "traceback", "silent"]


class SilentChangeError(AssertionError):
    """Raised if an input was accepted with a result other than it states."""


class TooLongError(Exception):
    """Raised if an input took longer than the limit."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of one input, and details of a fault."""

    ending: Ending
    detail: str = ""


def expect(condition: bool, what: str) -> None:
    """Raise `SilentChangeError` unless `condition` holds."""
    if not condition:
        raise SilentChangeError(what)


def judge(attempt: Callable[[], bool]) -> Outcome:
    """Return the outcome of an attempt, which returns whether its input was accepted."""
    try:
        with _time_limit():
            return Outcome("accepted" if attempt() else "refused")
    except (RequestError, RunFailedError) as error:
        lines = str(error).splitlines()
        if len(lines) > 1 or not lines:
            return Outcome("traceback", f"not one line: {error!s:.500}")
        return Outcome("refused")
    except SilentChangeError as error:
        return Outcome("silent", str(error))
    except KeyboardInterrupt:
        raise
    except BaseException:  # SystemExit and GeneratorExit of a client, too
        return Outcome("traceback", traceback.format_exc()[-3000:])


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


def call(*arguments: str) -> CommandResult:
    """Call `fl-sim` in this process.

    Raises:
        AssertionError: If an error has other than one line, or there is a traceback.
    """
    out, err, before, code = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = ["fl-sim", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    result = CommandResult(code, out.getvalue(), err.getvalue())
    assert "Traceback (most recent call last)" not in result.out + result.err, result
    assert code in (0, 1, 2), result
    if code == 2:
        lines = [line for line in result.err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1, result
    return result


def normalise_json(value: Any) -> Any:
    """Return JSON values in comparable form: NaN and infinity become their names."""
    return json.loads(json.dumps(value, default=str), parse_constant=str)


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TooLongError(f"took more than {LIMIT} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
