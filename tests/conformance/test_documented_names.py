"""Names of modules, classes, functions and files in the documentation exist."""

import ast
import importlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOTTED = re.compile(r"(?<![\w./-])(?:fl_sim|strategies|clients)(?:\.\w+)+(?![\w/]|\.\w)")
FILES = re.compile(r"(?<![\w/.-])(?:fl_sim|strategies|clients|tests|benchmarks)/[\w/.]+\.py\b")
SKIPPED = (  # pages about former names
    "docs/adr/names.md",
    "docs/adr/0014-packages-in-the-fields-words.md",
    "CHANGELOG.md",
)
OWN = "docs/extending.md"  # names files that its reader writes
GROUPS = {"fl_sim.strategies", "fl_sim.clients"}  # of entry points
FORMER = {"fl_sim.participants.Stay"}  # by which JSON still names a class


def texts() -> list[Path]:
    """Return the pages, and the modules, whose docstrings and comments name others."""
    tracked = subprocess.run(
        ["git", "ls-files", "*.md", "fl_sim/*.py", "strategies/*.py", "clients/*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return [ROOT / name for name in tracked if name not in SKIPPED and (ROOT / name).exists()]


def docstrings_of(path: Path) -> str:
    """Return all docstrings of a module."""
    parts = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, parts)]
    return "\n".join(filter(None, map(ast.get_docstring, nodes)))


def exists(dotted: str) -> bool:
    """Return whether a module, or an attribute of one, has this path."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for name in parts[count:]:
            fields = getattr(found, "__dataclass_fields__", {})
            if not hasattr(found, name) and name not in fields:
                return False
            found = getattr(found, name, None)
        return True
    return False


@pytest.mark.parametrize("path", texts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_exists(path: Path) -> None:
    text = path.read_text() if path.suffix == ".md" else docstrings_of(path)
    missing = [name for name in set(DOTTED.findall(text)) if not exists(name)]
    files = set(FILES.findall(text)) if path != ROOT / OWN else set()
    missing += [name for name in files if not (ROOT / name).exists()]
    assert set(missing) <= FORMER | GROUPS


def test_the_citation_and_the_changelog_have_the_version_of_the_package() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"\nversion: {package['version']}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{package['version']}]" in (ROOT / "CHANGELOG.md").read_text()
