"""Tests of hostile `experiment.json` files: an experiment or a `RequestError`, nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.sgd import SgdClient
from fl_sim import Adversary, Experiment
from fl_sim.config.experiment_file import read
from fl_sim.core.errors import RequestError
from fl_sim.participants import AvailabilityWindow, Participation
from fl_sim.protections.error_minimizing import ErrorMinimizing
from strategies.bucketing import Bucketing

WHOLE = Experiment(
    name="small",
    client=SgdClient(),
    strategy=Bucketing(),
    protection=ErrorMinimizing(),
    adversary=(Adversary(SgdClient()),),
    participation=Participation(stays=(AvailabilityWindow(0),)),
).describe()
CLASSES = ["os.system", "fl_sim.training.client_trainer.ClientTrainer",
           "fl_sim.experiment.Data", "", "é.x",
           "fl_sim.config.sweeps.Cell", "clients.sgd.SgdClient", "\ud800.a", "fl_sim.\0",
           "fl_sim.cli.main",
           "flwr.serverapp.strategy.Krum", "flwr.serverapp.strategy.QFedAvg", "a" * 5000,
           "strategies." * 900 + "X"]  # fmt: skip
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
odd = st.sampled_from(
    [10**5, 2**63, 10**400, -1, 1e308, 5e-324, "\0", "\ud800", "~nobody/x", "9" * 99]
)
described = st.builds(lambda name: {"class": name}, st.sampled_from(CLASSES))
anything = st.recursive(
    plain | odd | described,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a description."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a description with one value replaced."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


@given(st.sampled_from(places(WHOLE)), anything)
def test_any_value_in_any_place_is_an_experiment_or_a_request_that_is_wrong(
    path: tuple[Any, ...], new: Any
) -> None:
    text = json.dumps(changed(WHOLE, path, new))
    try:
        made = Experiment.from_json(text)
    except RequestError:
        return
    assert Experiment.from_json(made.to_json()).to_json() == made.to_json()
    assert made.run_id


@given(st.binary(max_size=40))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "experiment.json"
    path.write_bytes(content)
    with pytest.raises(RequestError):
        read(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bytes(range(256)), "is not text in UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "is not text in UTF-8"),
        (b"[" * 200_000, "this is not JSON: nested too deeply"),
        (b"[" * 100 + b"]" * 100, "at most 32 parts inside one another"),
        (b'{"class": ' + b"9" * 6000 + b"}", "this is not JSON: Exceeds the limit"),
        (b'{"class": NaN}', "this is not JSON: NaN is no number of JSON"),
        (b"[-Infinity]", "this is not JSON: -Infinity is no number of JSON"),
        (b'{"class": "a", "class": "b"}', "this is not JSON: the key 'class' occurs twice"),
        (b"", "this is not JSON: Expecting value"),
        (b"null", "expected a Experiment, got NoneType"),
        (b"\xef\xbb\xbfnull", "expected a Experiment, got NoneType"),
    ],
)
def test_what_is_no_json_is_refused_by_the_files_name(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "experiment.json"
    path.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)


def test_a_mark_of_utf_8_at_the_beginning_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "experiment.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(WHOLE).encode())
    assert read(path).experiment.describe() == WHOLE
