"""Claims are measured: `<name>.expected.json` beside an experiment holds what it gave.

A file keeps, for each setting, the mean over seeds, its spread, and how far another machine may
be off; with the command, the seeds, the hardware, and what the papers report. The pages of
docs/results and the index in docs/experiments.md are written from these files.
"""

import datetime
import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from fl_sim.core.atomic_io import read_json, write_json, write_text
from fl_sim.core.errors import RequestError
from fl_sim.report.expected_page import read_docstring, render_experiment_page, render_index_line
from fl_sim.report.expected_table import label_settings
from fl_sim.results import Results, load_results, load_study
from fl_sim.results.studies import SUMMARY

NUMBERS = (
    "accuracy",
    "best_accuracy",
    "protection.a_all",
    "protection.a_clean",
    "protection.utility_gap",
    "protection.extraction_ratio",
    "leakage.auc",
    "leakage.clean_auc",
    "leakage.protected_auc",
    "detection.train_loss_auc",
    "detection.update_norm_auc",
    "epsilon.clients",
    "epsilon.images",
    "epsilon.local",
    "fairness.mean",
    "fairness.worst_client",
    "fairness.best_10_percent",
    "fairness.spread",
    "rule.clean_share",
    "rule.protected_share",
    "rule.attacker_share",
)
TEXTS = ("topic", "images", "answer", "findings")  # written by people, shown on the page
LEAST_TOLERANCE = 0.03  # another machine rounds otherwise, and training magnifies it
SPREADS = 2.0


class Deviation(NamedTuple):
    """A number that is not what was expected."""

    settings: str
    number: str
    expected: float
    measured: float
    tolerance: float


class MeasuredResults(NamedTuple):
    """The results of an experiment or a study, as far as they are kept in an expected file.

    Attributes:
        name: of the experiment.
        command: that runs it.
        hardware: processor and torch.
        cells: one row a setting and seed; settings in columns `settings.*`.
        numbers: columns that are kept.
    """

    name: str
    command: str
    hardware: str
    cells: pd.DataFrame
    numbers: tuple[str, ...]


def load_measured(path: Path, out: Path) -> MeasuredResults:
    """Return the results that belong to an expected file.

    Raises:
        RequestError: where there are none.
    """
    root = out / path.name.removesuffix(".expected.json")
    file = f"experiments/{root.name}.py"
    if (root / SUMMARY).exists():
        study = load_study(root)
        cells = study.cells.rename(columns=lambda name: str(name).removeprefix("numbers."))
        return MeasuredResults(
            root.name, f"fl-sim study {file}", study.hardware, cells, tuple(study.numbers)
        )
    results = load_results(root)
    return MeasuredResults(
        root.name, f"fl-sim sweep {file}", _read_hardware(results), results.cells, NUMBERS
    )


def record(path: Path, found: MeasuredResults, minutes: float) -> None:
    """Write what was measured into the file at `path`, keeping what people wrote there.

    Args:
        path: `<name>.expected.json`.
        found: of the experiment, all cells finished.
        minutes: wall-clock time that the runs took.
    """
    kept = _read_expected(path) if path.exists() else {"command": found.command, "reported": []}
    content = kept | {
        "experiment": found.name,
        "seeds": sorted({int(seed) for seed in found.cells["seed"]}),
        "hardware": found.hardware,
        "measured": datetime.date.today().isoformat(),
        "minutes": round(minutes, 1),
        "numbers": _summarize_cells(found),
    }
    write_json(path, content)


def compare(path: Path, found: MeasuredResults) -> list[Deviation]:
    """Return the numbers that are further off than the file allows."""
    now = {(e["settings"], e["number"]): e["mean"] for e in label_settings(_summarize_cells(found))}
    deviations = []
    for entry in label_settings(_read_expected(path)["numbers"]):
        value = now.get((entry["settings"], entry["number"]), math.nan)
        if not abs(value - entry["mean"]) <= entry["tolerance"]:
            deviation = Deviation(
                entry["settings"], entry["number"], entry["mean"], value, entry["tolerance"]
            )
            deviations.append(deviation)
    return deviations


def write_pages(index: Path, folder: Path) -> list[str]:
    """Write a page for every expected file and its line in the index; return the names.

    Pages go to `results/` beside the index. The lines of a topic stand in the index between
    `<!-- topic -->` and `<!-- /topic -->`.

    Args:
        index: A Markdown file, such as docs/experiments.md.
        folder: Of the experiments and their expected files.

    Raises:
        RequestError: if a file lacks a field that the page needs, or the index has no place for it.
    """
    lines: dict[str, list[str]] = {}
    pages: dict[str, str] = {}
    for path in sorted(folder.glob("*.expected.json")):
        name = path.name.removesuffix(".expected.json")
        content, docstring = _read_expected(path), read_docstring(folder / f"{name}.py")
        if lacking := [field for field in TEXTS if field not in content]:
            raise RequestError(f"{path} lacks {', '.join(lacking)}, which its page shows")
        pages[name] = render_experiment_page(name, content, docstring, NUMBERS)
        line = render_index_line(name, content, docstring)
        lines.setdefault(content["topic"], []).append(line)
    text = index.read_text()
    for topic, rows in lines.items():
        marks = re.compile(rf"(<!-- {re.escape(topic)} -->\n).*?(<!-- /)", re.DOTALL)
        if not (found := marks.search(text)):
            raise RequestError(f"{index} has no mark <!-- {topic} -->, the topic of {rows[0]}")
        table = "\n".join(["| Experiment | Question | Answer |", "|---|---|---|", *rows])
        text = f"{text[: found.end(1)]}{table}\n{text[found.start(2) :]}"
    (index.parent / "results").mkdir(exist_ok=True)
    for name, page in pages.items():
        write_text(index.parent / "results" / f"{name}.md", page)
    write_text(index, text)
    return list(pages)


def _summarize_cells(found: MeasuredResults) -> list[dict[str, Any]]:
    """Return mean and spread over seeds of every number that is defined, by setting."""
    cells = found.cells
    axes = [column for column in cells.columns if column.startswith("settings.")]
    groups = cells.groupby(axes, sort=False, dropna=False) if axes else [((), cells)]
    entries = []
    for key, table in groups:
        settings = dict(zip([a.removeprefix("settings.") for a in axes], key, strict=True))
        known = [name for name in found.numbers if name in table]
        entries += [_summarize_values(settings, name, table[name].dropna()) for name in known]
    return [entry for entry in entries if entry["mean"] is not None]


def _summarize_values(
    settings: dict[str, Any], name: str, values: "pd.Series[float]"
) -> dict[str, Any]:
    if values.empty:
        return {"settings": settings, "number": name, "mean": None}
    spread = float(values.std()) if len(values) > 1 else 0.0
    middle = float(values.mean())
    least = LEAST_TOLERANCE * max(1.0, abs(middle))
    return {
        "settings": settings,
        "number": name,
        "mean": round(middle, 4),
        "spread": round(spread, 4),
        "tolerance": round(max(least, SPREADS * spread), 4),
    }


def _read_hardware(results: Results) -> str:
    found = next(results.path.glob("*/*/environment.json"), None)
    environment = read_json(found) if found else {}
    return f"{environment.get('processor', 'unknown')}, torch {environment.get('torch', '?')}"


def _read_expected(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise RequestError(f"there is no file {path}")
    content: dict[str, Any] = json.loads(path.read_text())
    return content
