"""The command line, called in this process."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from fl_sim import cli


class Done(NamedTuple):
    """Exit code and output of a call of the command line."""

    code: int
    out: str
    err: str


@pytest.fixture
def fl_sim(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], blank_figures: None
) -> Callable[..., Done]:
    """Return a caller of the command line, in this process; figures of pages are blank."""

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["fl-sim", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Done(code, *capsys.readouterr())

    return call
