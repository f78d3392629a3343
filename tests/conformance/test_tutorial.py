"""The tutorial of the documentation, done word by word in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

PAGE = Path(__file__).parents[2] / "docs/tutorial.md"
BLOCK = re.compile(r"(?:^`(\S+\.py)`:\n\n)?^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"[+-]?[\d.]+|[-─━]{2,}|\s+")


class Block(NamedTuple):
    """A block of code.

    Attributes:
        file: File that it is the content of, or an empty string.
        language: `python`, `bash`, or `text` for what the command before it prints.
        text: Its lines.
    """

    file: str
    language: str
    text: str


BLOCKS = [Block(*found) for found in BLOCK.findall(PAGE.read_text("utf-8"))]


def mask(line: str) -> str:
    """Return a line without its numbers, rules and spaces, which differ between machines."""
    return NUMBER.sub("", line)


@pytest.mark.slow
def test_the_tutorial_works_word_by_word(tmp_path: Path) -> None:
    environment = dict(os.environ, COLUMNS="100", PYTHONPATH=os.pathsep.join(map(str, sys.path)))
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    printed = ""
    for block in BLOCKS:
        if block.file:
            (tmp_path / block.file).write_text(block.text)
        elif block.language == "bash":
            done = subprocess.run(
                ["bash", "-euc", block.text],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            printed = done.stdout
            assert done.returncode == 0, f"{block.text}{done.stdout}{done.stderr}"
        elif block.language == "text":
            lines = {mask(line) for line in (*printed.splitlines(), "...")}  # some are left out
            missing = [line for line in block.text.splitlines() if mask(line) not in lines]
            assert missing == [], printed


def test_the_files_of_the_tutorial_are_python() -> None:
    files = [block for block in BLOCKS if block.file]
    assert {block.file for block in files} == {"make_photos.py", "hospitals.py"}
    for block in files:
        compile(block.text, block.file, "exec")
    assert {block.language for block in BLOCKS} == {"python", "bash", "text"}
