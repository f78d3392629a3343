"""Runs the conformance tests of this project on plug-ins of a user."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import fl_sim
from fl_sim.cli.catalogue import PACKAGES
from fl_sim.core import user_modules
from fl_sim.core.errors import RequestError
from fl_sim.core.plugins import discover_own
from fl_sim.data.sources import Source
from fl_sim.models.backbones import BackboneSource

NEEDED = ("pytest", "hypothesis", "beartype")
FILES = {  # tests of all kinds are in the first
    "": "test_conventions.py",
    "strategies": "test_rules.py",
    "clients": "test_clients.py",
    "protections": "test_protections.py",
    "countermeasures": "test_countermeasures.py",
    "metrics": "test_metrics.py",
    "partitions": "test_partitions.py",
    "corruptions": "test_corruptions.py",
    "domains": "test_domains.py",
    "triggers": "test_triggers.py",
}


class Selection:
    """Plug-in of pytest that keeps the tests that are about certain classes.

    Attributes:
        classes: The classes.
    """

    def __init__(self, classes: list[type[Any]]) -> None:
        self.classes = classes

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Drop every other test."""
        kept = [item for item in items if self._is_about(getattr(item, "callspec", None))]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept

    def _is_about(self, call: Any) -> bool:
        values = () if call is None else call.params.values()
        return any(value in self.classes or type(value) in self.classes for value in values)


def run(modules: list[str]) -> bool:
    """Run the conformance tests on the plug-ins of some modules; return whether all pass.

    Raises:
        RequestError: If pytest is missing, or the modules have no plug-ins.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(
            f"fl-sim check needs {' and '.join(missing)}: pip install 'fl-sim[check]'"
        )
    names = user_modules.declare(*modules, source="fl-sim check")
    kinds: dict[str, type[Any]] = {kind: base for kind, (_, base) in PACKAGES.items()}
    kinds |= {"datasets": Source, "models": BackboneSource}
    found = {
        kind: [cls for cls in discover_own(base) if _is_in(cls, names)]
        for kind, base in kinds.items()
    }
    classes = [cls for own in found.values() for cls in own]
    if not classes:
        raise RequestError(f"there is no plug-in in {', '.join(modules)}")
    print(f"checking {', '.join(cls.__name__ for cls in classes)}")
    return _run_pytest([file for kind, file in FILES.items() if not kind or found[kind]], classes)


def _is_in(cls: type[Any], names: list[str]) -> bool:
    return any(cls.__module__ == name or cls.__module__.startswith(f"{name}.") for name in names)


def _run_pytest(files: list[str], classes: list[type[Any]]) -> bool:
    import pytest

    package = Path(fl_sim.__file__).parent
    root = package if (package / "tests").is_dir() else package.parent  # as in the repository
    folder = root / "tests" / "conformance"
    arguments = ["--quiet", "--no-header", "--tb=short", "--import-mode=importlib"]
    arguments += ["-c", os.devnull, "--rootdir", str(root)]
    arguments += ["-p", "no:cacheprovider", "-W", "ignore"]
    code = pytest.main([*arguments, *(str(folder / file) for file in files)], [Selection(classes)])
    return code == pytest.ExitCode.OK
