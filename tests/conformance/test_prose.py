"""Docstrings open with what is provided or returned, not with a question word."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("fl_sim", "strategies", "clients", "benchmarks")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
QUESTION = re.compile(r"(What|Who|Where|How|When|Whether|Why|Say)\b")
RIDDLE = re.compile(r"(Return|Yield|Give|Tell|Say) (what|who|where|how)\b")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_open_with_what_is_provided(path: Path) -> None:
    parts = (ast.Module, ast.ClassDef, ast.FunctionDef)
    refused = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(node, parts):
            continue
        text, name = ast.get_docstring(node), getattr(node, "name", path.stem)
        if text and (QUESTION.match(text) or RIDDLE.match(text)):
            refused.append(f"{name}: {text.splitlines()[0]}")
    assert refused == []
