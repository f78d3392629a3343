"""Renders an expected file as a Markdown page, and its line in the index of experiments."""

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fl_sim.report.expected_table import render_table


def render_experiment_page(
    name: str, content: dict[str, Any], docstring: str, of_runs: Sequence[str]
) -> str:
    """Return the page of an experiment: question, answer, set-up, table and literature.

    Args:
        name: Of the experiment.
        content: The parsed expected file.
        docstring: Of the experiment file: the question, a `Run:` line, and the set-up.
        of_runs: Names of the numbers that runs have; a file with others is a study's.
    """
    question, setup = _split_docstring(docstring)
    parts = [f"# {name}", f"*{question}*", content["answer"]]
    parts += ["\n".join(f"- {line}" for line in content["findings"])] if content["findings"] else []
    parts += ["## Set-up", *([setup] if setup else []), _list_facts(content)]
    parts += ["## Results", render_table(content, of_runs)]
    parts += ["## Published results", _list_reported(content["reported"])]
    parts.append(
        f"[All experiments](../experiments.md) · [{name}.py](../../experiments/{name}.py) · "
        f"[{name}.expected.json](../../experiments/{name}.expected.json), from which `make report` "
        "writes this page · [Glossary](../glossary.md)"
    )
    return "\n\n".join(parts) + "\n"


def render_index_line(name: str, content: dict[str, Any], docstring: str) -> str:
    """Return a row of the index: a link to the page, the question, and the answer."""
    question, _ = _split_docstring(docstring)
    return f"| [{name}](results/{name}.md) | {question} | {content['answer']} |"


def read_docstring(path: Path) -> str:
    """Return the docstring of a Python file without running it."""
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def _split_docstring(text: str) -> tuple[str, str]:
    """Return the question and the set-up, without the lines on how to run the file."""
    question, _, rest = text.partition("\n")
    setup = re.sub(r"^(Run|Takes|Shows):.*\n?([ \t]+.*\n?)*", "", rest, flags=re.MULTILINE)
    return question, re.sub(r"\n{3,}", "\n\n", setup).strip()


def _list_facts(content: dict[str, Any]) -> str:
    """Return command, images, seeds, hardware and time as a list."""
    seeds = ", ".join(map(str, content["seeds"]))
    facts = {
        "Command": f"`{content['command']}`",
        "Images": content["images"],
        "Seeds": seeds,
        "Hardware": f"{content['hardware']}; {content['minutes']} minutes, {content['measured']}",
    }
    return "\n".join(f"- {label}: {value}" for label, value in facts.items())


def _list_reported(reported: list[dict[str, str]]) -> str:
    """Return the results of papers as a list, with sources and reasons for differences."""
    if not reported:
        return "We know of no published result to compare with."
    return "\n".join(
        f"- {entry['claim']} *Source:* {entry['source']}. "
        f"*Why ours differs:* {entry['why_ours_differs']}"
        for entry in reported
    )
