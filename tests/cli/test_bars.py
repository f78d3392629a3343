"""Progress in a terminal of 80 columns, and as plain lines without a terminal."""

import io
import re
from collections.abc import Callable
from math import nan

import pytest
from rich.console import Console

from fl_sim.cli import bars
from fl_sim.runs.progress import Progress
from tests.hand_clock import HandClock

LONG = "fraction 0.5, protection RobustErrorMinimizing, method FedProx with a long name, seed 0"
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def make_console(terminal: bool) -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, width=80, force_terminal=terminal, color_system=None), written


def noise(passes: int, left: float, key: str = "a") -> Progress:
    start = Progress(key, LONG, 0, 20, 10, nan, seconds_left=left)
    return start._replace(noise_passes=passes, noise_total=1_000_000)


def done(number: int, key: str = "a", rounds: int = 20, seconds: float = 30.0) -> Progress:
    return Progress(key, LONG, number, rounds, 10, 0.8125, seconds=seconds, seconds_left=30.0)


Reports = Callable[[Callable[[Progress], None], HandClock], None]


def show(terminal: bool, reports: Reports) -> list[str]:
    console, written = make_console(terminal)
    clock = HandClock()
    with bars.show_progress(console, 3, clock=clock) as listen:
        reports(listen, clock)
    return [line for line in re.split(r"[\r\n]+", CODES.sub("", written.getvalue())) if line]


def report_noise_and_rounds(listen: Callable[[Progress], None], clock: HandClock) -> None:
    listen(noise(250_000, 5400.0))
    clock.now += 30
    listen(noise(260_000, 5300.0))  # too early for another plain line
    clock.now += 40
    listen(noise(500_000, 3600.0))
    clock.now += 30
    listen(done(1))
    clock.now += 570
    listen(done(20))


def test_plain_lines_tell_noise_runs_and_the_time_left() -> None:
    lines = show(False, report_noise_and_rounds)
    assert lines == [
        f"noise of {LONG}: 250,000 of at most 1,000,000 passes, about 1.5 h left",
        f"noise of {LONG}: 500,000 of at most 1,000,000 passes, about 60 min left",
        "0 of 3 runs finished, about 30 min left",
        "finished  accuracy 0.812  fraction 0.5, protection RobustErrorMinimizing, method",
        "FedProx with a long name, seed 0",
        "1 of 3 runs finished, about 20 min left",
    ]


@pytest.mark.parametrize("num", [0, 1])
def test_bars_fit_into_eighty_columns(num: int) -> None:
    def report(listen: Callable[[Progress], None], clock: HandClock) -> None:
        clock.now += 1
        listen([noise(250_000, 5400.0), done(3)][num])

    lines = show(True, report)
    assert max(map(len, lines)) <= 80
    (whole, own) = lines[-2:]
    assert "0/3 runs" in whole
    words = [("noise 25%", "about 1.5 h left"), ("3/20 rounds", "about 30 s left")][num]
    for word in words:
        assert word in own
    assert "…" in own  # the long name is cut, not the numbers


def test_a_stage_tells_its_time_once_it_is_settled_and_then_every_minute() -> None:
    console, written = make_console(False)
    clock = HandClock()
    with bars.show_stages(console, clock) as watch:
        for second in range(100):
            clock.now = float(second)
            watch("passes over each image", 10 * second, 1000)
        watch("images written", 1, None)
    assert written.getvalue().splitlines() == [
        "passes over each image: 20/1,000, about 2 min left",
        "passes over each image: 620/1,000, about 38 s left",
    ]
