"""Tests of modules of users: how they are found, imported, sent to other processes and hashed."""

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_sim.core import user_modules
from fl_sim.core.errors import RequestError
from fl_sim.core.plugins import discover_own, index_by_name, read_docstring
from fl_sim.core.user_modules import Declared


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Forget modules, the path and declarations after each test, and work in an empty folder."""
    monkeypatch.setattr(user_modules, "_declared", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv(user_modules.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("lab", "alone", "other", "strategies_of_mine"):
            del sys.modules[name]


def write(folder: Path, **files: str) -> None:
    """Write Python files; two underscores stand for a slash."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def make_lab(folder: Path) -> Path:
    """Write a package of two plug-ins, a helper and tests that must not be imported."""
    write(
        folder,
        lab__rules='"""Rules."""\nfrom lab import helper\nclass Base:\n    name = "b"\n',
        lab__deep__more="from ..rules import Base\nclass More(Base):\n    name = 'm'\n",
        lab__helper="import os\nX = 1\n",
        lab__test_rules="raise RuntimeError('tests are not imported')\n",
        lab__conftest="raise RuntimeError('nor is this')\n",
    )
    (folder / "lab" / "__init__.py").write_text("")
    (folder / "lab" / "deep" / "__init__.py").write_text("")
    return folder / "lab"


def names() -> list[str]:
    return sorted(module.__name__ for module in user_modules.import_modules())


def test_a_package_is_walked_without_its_tests(tmp_path: Path) -> None:
    make_lab(tmp_path)
    user_modules.declare("lab")
    assert names() == ["lab", "lab.deep", "lab.deep.more", "lab.helper", "lab.rules"]


@pytest.mark.parametrize("text", ["lab/rules.py", "lab/rules", "./lab/rules.py"])
def test_a_path_stands_for_the_module_in_its_package(tmp_path: Path, text: str) -> None:
    make_lab(tmp_path / "far")
    if text == "lab/rules":
        text = "lab/rules.py"
    assert user_modules.declare(f"far/{text}") == ["lab.rules"]
    assert user_modules.declared() == (Declared("lab.rules", str(tmp_path / "far")),)
    assert str(tmp_path / "far") in sys.path
    assert names() == ["lab.rules"]


def test_the_variable_declares_modules_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_lab(tmp_path)
    write(tmp_path, alone="X = 1\n")
    monkeypatch.setenv(user_modules.VARIABLE, os.pathsep.join(["lab.helper", "alone.py"]))
    assert names() == ["alone", "lab.helper"]
    assert user_modules.is_declared("lab.helper")
    assert not user_modules.is_declared("lab.rules")


def test_entry_points_declare_modules_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_lab(tmp_path)
    info = tmp_path / "lab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fl_sim.strategies]\nrules = lab.rules\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    user_modules._list_entry_points.cache_clear()
    try:
        assert list(user_modules.list_declared()) == ["lab.rules"]
        assert names() == ["lab.rules"]
        assert user_modules.hash_modules(["lab.rules"]).count(":") == 3  # and those it imports
    finally:
        user_modules._list_entry_points.cache_clear()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nowhere", "there is no module 'nowhere'"),
        ("no-name", "there is no module 'no-name'"),
        ("nowhere.py", "is no Python file or package"),
        ("strategies.krum", "is part of fl-sim"),
        ("", "there is no module ''"),
    ],
)
def test_an_unknown_module_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(RequestError, match=r"^--plugins: ") as error:
        user_modules.declare(text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_module_that_fails_is_refused_with_the_place(tmp_path: Path) -> None:
    write(tmp_path, alone="X = 1\nY = X.nothing\n")
    user_modules.declare("alone")
    with pytest.raises(
        RequestError, match=r"alone cannot be imported: AttributeError.*alone\.py:2"
    ):
        user_modules.import_modules()


def test_another_module_of_the_same_name_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "one", alone="X = 1\n")
    write(tmp_path / "two", alone="X = 2\n")
    user_modules.declare("one/alone.py")
    assert names() == ["alone"]
    user_modules.declare("two/alone.py")
    with pytest.raises(
        RequestError, match=r"alone are in .*two, but .*one has a module alone, too"
    ):
        user_modules.import_modules()


def test_another_process_adopts_what_is_declared(tmp_path: Path) -> None:
    make_lab(tmp_path / "far")
    user_modules.declare("far/lab")
    state = user_modules.declared()
    user_modules._declared.clear()
    sys.path.remove(str(tmp_path / "far"))
    user_modules.adopt(state)
    assert "lab.rules" in names()


def test_the_variable_is_exported_for_a_while(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_lab(tmp_path)
    write(tmp_path, alone="X = 1\n")
    monkeypatch.setenv(user_modules.VARIABLE, "alone")
    user_modules.declare("lab")
    with user_modules.exported():
        assert os.environ[user_modules.VARIABLE] == f"alone{os.pathsep}lab"
    assert os.environ[user_modules.VARIABLE] == "alone"


def test_a_hash_covers_the_module_and_those_of_ones_own_that_it_imports(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    user_modules.declare("lab")
    user_modules.import_modules()
    hashes = dict(word.split(":") for word in user_modules.hash_modules(["lab.deep.more"]).split())
    # The empty packages run as well, when a module in them is imported.
    assert {"lab.deep.more", "lab.rules", "lab.helper"} <= hashes.keys()
    text = (lab / "helper.py").read_bytes()
    assert hashes["lab.helper"] == hashlib.sha256(text).hexdigest()
    assert user_modules.hash_modules(["strategies.krum", "json"]) == ""
    assert "lab.rules" not in user_modules.hash_modules(["lab.helper"])


def test_changed_modules_are_named() -> None:
    assert user_modules.find_changed("a:1 b:2 c:3", "a:1 b:4 d:5") == ["b"]
    assert user_modules.find_changed("", "a:1") == []


def test_modules_beside_a_file_are_declared_by_its_imports(tmp_path: Path) -> None:
    make_lab(tmp_path / "far")
    write(tmp_path / "far", alone="X = 1\n", lab__never="raise RuntimeError('not imported')\n")
    imports = ("import os", "import alone", "from lab.deep.more import More", "import strategies")
    user_modules.declare_imports("\n".join(imports).encode(), tmp_path / "far")
    wanted = {"alone", "lab.deep.more", "lab.rules", "lab.helper", "lab"}
    assert {module.name for module in user_modules.declared()} == wanted
    assert set(names()) == wanted
    assert not user_modules.is_declared("lab.never")
    with user_modules.exported():
        state, text = user_modules.declared(), os.environ[user_modules.VARIABLE]
        user_modules._declared.clear()
        assert set(user_modules.declared()) >= {m for m in state if m.name == "lab"}
        assert not user_modules.is_declared("lab.never"), text


def test_a_class_in_use_declares_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_lab(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    rules = user_modules.import_module("lab.rules")
    assert user_modules.declare_class(rules.Base)
    assert user_modules.is_declared("lab.rules")
    assert not user_modules.declare_class(type("Local", (), {"__module__": "__main__"}))
    assert not user_modules.declare_class(type("Base", (), {"__module__": "lab.rules"}))


@pytest.mark.parametrize("name", ["strategies", "clients"])
@pytest.mark.parametrize("form", ["file", "package"])
def test_a_foreign_package_of_our_name_is_named(tmp_path: Path, name: str, form: str) -> None:
    write(tmp_path / "far", **{name if form == "file" else f"{name}__mine": "X = 1\n"})
    with pytest.raises(RequestError, match=f"far/{name}.* hides the package '{name}' of fl-sim"):
        user_modules.refuse_foreign_packages(tmp_path / "far")
    user_modules.refuse_foreign_packages(tmp_path)


def test_plug_ins_are_found_and_read_without_an_import(tmp_path: Path) -> None:
    make_lab(tmp_path)
    user_modules.declare("lab")
    rules = user_modules.import_module("lab.rules")
    found = discover_own(rules.Base)
    assert [cls.__name__ for cls in found] == ["More", "Base"]
    assert set(index_by_name(found)) == {"m", "b"}
    found[0].name = "b"
    with pytest.raises(
        RequestError, match=r"two plug-ins have the name 'b': lab\.deep\.more\.More"
    ):
        index_by_name(found)
    write(tmp_path, alone='class A:\n    """An a."""\n')
    user_modules.declare("alone")
    assert read_docstring("alone.A") == "An a."
    assert "alone" not in sys.modules
