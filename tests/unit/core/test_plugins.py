"""Tests of the discovery of plug-ins and their docstrings."""

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_sim.core.plugins import discover, summary_of

FILES = {
    "__init__.py": "",
    "base.py": "from abc import ABC, abstractmethod\nclass Base(ABC):\n"
    "    @abstractmethod\n    def act(self): ...\n",
    "zebra.py": "from walked.base import Base\nclass Zebra(Base):\n    def act(self): ...\n",
    "ant.py": "from walked.base import Base\nfrom walked.zebra import Zebra\n"
    "class Ant(Base):\n    def act(self): ...\n"
    "class Unfinished(Base):\n    pass\nclass Other:\n    pass\n",
}


@pytest.fixture
def walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """Return the base class of a package of three plug-in files."""
    (tmp_path / "walked").mkdir()
    for name, text in FILES.items():
        (tmp_path / "walked" / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("walked.base").Base
    for name in [name for name in sys.modules if name.split(".")[0] == "walked"]:
        del sys.modules[name]


def test_concrete_classes_are_found_once_and_sorted(walked: type) -> None:
    assert [cls.__name__ for cls in discover("walked", walked)] == ["Ant", "Zebra"]


def test_classes_are_found_where_they_are_defined(walked: type) -> None:
    modules = [cls.__module__ for cls in discover("walked", walked)]
    assert modules == ["walked.ant", "walked.zebra"]


def test_another_base_finds_nothing(walked: type) -> None:
    class Stranger(ABC):
        @abstractmethod
        def act(self) -> None: ...

    assert discover("walked", Stranger) == []


def test_an_unknown_package_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError):
        discover("no_such_package", object)


class Cited:
    """Do one thing.

    More about it.

    Source: Somebody (2020), section 3,
    https://example.org/paper; also elsewhere.

    Attributes:
        radius: of something.
    """


class Uncited:
    """Do another thing."""


class Silent:
    __doc__ = None


def test_the_summary_is_the_first_line_and_the_source_its_paragraph() -> None:
    source = "Somebody (2020), section 3, https://example.org/paper; also elsewhere."
    assert summary_of(Cited) == ("Do one thing.", source)


def test_a_missing_source_is_empty() -> None:
    assert summary_of(Uncited) == ("Do another thing.", "")


def test_a_missing_docstring_is_empty() -> None:
    assert summary_of(Silent)[1] == ""
