"""Injected faults: parsing of `--inject`, and equal draws on every engine."""

import pytest

from fl_sim.core.errors import RequestError
from fl_sim.runs.run_options import RunOptions
from fl_sim.training.faults import Faults


def test_chances_are_read() -> None:
    assert Faults.parse("crash:0.1, nan:0.05") == Faults(crash=0.1, nan=0.05)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("explode:0.1", ["crash, nan, hang, slow", "'explode'"]),
        ("nan", ["kind:chance", "'nan'"]),
        ("nan:often", ["kind:chance", "often"]),
        ("", ["kind:chance"]),
        ("nan:-0.1", ["at least 0", "-0.1"]),
        ("nan:0.6,crash:0.6", ["at most 1", "0.6"]),
        ("crash:nan", ["at least 0", "crash:nan"]),
        ("crash:nan,nan:0.1", ["at least 0", "crash:nan"]),
        ("crash:inf", ["at most 1", "crash:inf"]),
        ("crash:-inf", ["at least 0", "crash:-inf"]),
        ("crash:1e400", ["at most 1", "1e400"]),
        ("nan:0.1,nan:0.2", ["each kind once", "'nan'"]),
        ("nan:0.1,", ["kind:chance", "''"]),
        (":0.1", ["crash, nan, hang, slow", "''"]),
        ("nan:", ["kind:chance", "'nan:'"]),
    ],
)
def test_what_cannot_be_read_is_named(text: str, words: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        Faults.parse(text)
    assert all(word in str(caught.value) for word in words), caught.value


def test_faults_are_drawn_by_name_and_at_their_chance() -> None:
    faults = Faults(crash=0.1, nan=0.3)
    drawn = [faults.draw(0, number, client, 0) for number in range(40) for client in range(50)]
    assert drawn == [faults.draw(0, n, c, 0) for n in range(40) for c in range(50)]
    assert drawn.count("crash") / len(drawn) == pytest.approx(0.1, abs=0.03)
    assert drawn.count("nan") / len(drawn) == pytest.approx(0.3, abs=0.04)
    assert {faults.draw(0, 1, 1, attempt) for attempt in range(50)} == {"", "nan", "crash"}


def test_engines_that_cannot_inject_refuse() -> None:
    with pytest.raises(RequestError, match="--inject works on the engines local and ray"):
        RunOptions(engine="flower", faults=Faults(nan=0.1))
