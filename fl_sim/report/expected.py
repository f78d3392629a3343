"""Records and checks the expected results of experiments, `<name>.expected.json`.

A file holds, per setting, the mean over seeds, its spread, and a tolerance for other machines; and
the command, the seeds, the hardware, and the results of papers. The pages of docs/results and the
index in docs/experiments.md are written from these files.
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
    "attack.accuracy_lost",
    "backdoor.start",
    "backdoor.success",
    "backdoor.half_life",
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
TEXTS = ("topic", "images", "answer", "findings")  # written by hand, shown on the page
LEAST_TOLERANCE = 0.03  # rounding differs between machines, and training amplifies it
SPREADS = 2.0


class Deviation(NamedTuple):
    """A number outside the tolerance of its expected value."""

    settings: str
    number: str
    expected: float
    measured: float
    tolerance: float


class MeasuredResults(NamedTuple):
    """The results of an experiment or a study that an expected file records.

    Attributes:
        name: Name of the experiment.
        command: Command that runs it.
        hardware: Processor, version of torch, and the precision if it is not float32.
        cells: One row per setting and seed; settings are in columns `settings.*`.
        numbers: Columns that are recorded.
    """

    name: str
    command: str
    hardware: str
    cells: pd.DataFrame
    numbers: tuple[str, ...]


def load_measured(path: Path, out: Path) -> MeasuredResults:
    """Return the results that belong to an expected file.

    Raises:
        RequestError: If there are none.
    """
    root = out / path.name.removesuffix(".expected.json")
    name, file = root.name, f"experiments/{root.name}.py"
    if (root / SUMMARY).exists():
        study = load_study(root)
        cells = study.cells.rename(columns=lambda name: str(name).removeprefix("numbers."))
        command, numbers = f"fl-sim study {file}", tuple(study.numbers)
        return MeasuredResults(name, command, study.hardware, cells, numbers)
    results = load_results(root)
    hardware = _read_hardware(results)
    return MeasuredResults(name, f"fl-sim sweep {file}", hardware, results.cells, NUMBERS)


def record(path: Path, measured: MeasuredResults, minutes: float) -> None:
    """Write results into the file at `path`, keeping the fields written by hand.

    Args:
        path: File `<name>.expected.json`.
        measured: Results of the experiment, with all cells finished.
        minutes: Wall-clock time of the runs.
    """
    first = {"command": measured.command, "reported": []}
    earlier = _read_expected(path) if path.exists() else first
    content = earlier | {
        "experiment": measured.name,
        "seeds": sorted({int(seed) for seed in measured.cells["seed"]}),
        "hardware": measured.hardware,
        "measured": datetime.date.today().isoformat(),
        "minutes": round(minutes, 1),
        "numbers": _summarize_cells(measured),
    }
    write_json(path, content)


def compare(path: Path, measured: MeasuredResults) -> list[Deviation]:
    """Return the numbers that are further from their expected values than the file allows."""
    entries = label_settings(_summarize_cells(measured))
    means = {(entry["settings"], entry["number"]): entry["mean"] for entry in entries}
    deviations = []
    for entry in label_settings(_read_expected(path)["numbers"]):
        value = means.get((entry["settings"], entry["number"]), math.nan)
        if not abs(value - entry["mean"]) <= entry["tolerance"]:
            settings, number, mean = (entry[key] for key in ("settings", "number", "mean"))
            deviations.append(Deviation(settings, number, mean, value, entry["tolerance"]))
    return deviations


def write_pages(index: Path, folder: Path) -> list[str]:
    """Write a page for every expected file and its line in the index; return the names.

    Pages go to `results/` beside the index. The lines of a topic stand in the index between
    `<!-- topic -->` and `<!-- /topic -->`.

    Args:
        index: A Markdown file, such as docs/experiments.md.
        folder: Of the experiments and their expected files.

    Raises:
        RequestError: If a file lacks a field that the page needs, or the index has no place for it.
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
        if not (match := marks.search(text)):
            raise RequestError(f"{index} has no mark <!-- {topic} -->, the topic of {rows[0]}")
        table = "\n".join(["| Experiment | Question | Answer |", "|---|---|---|", *rows])
        text = f"{text[: match.end(1)]}{table}\n{text[match.start(2) :]}"
    (index.parent / "results").mkdir(exist_ok=True)
    for name, page in pages.items():
        write_text(index.parent / "results" / f"{name}.md", page)
    write_text(index, text)
    return list(pages)


def _summarize_cells(measured: MeasuredResults) -> list[dict[str, Any]]:
    """Return mean and spread over seeds of every defined number, per setting.

    `seeds` is the number of seeds that define it, and is left out if all do.
    """
    cells = measured.cells
    axes = [column for column in cells.columns if column.startswith("settings.")]
    groups = cells.groupby(axes, sort=False, dropna=False) if axes else [((), cells)]
    entries = []
    for key, table in groups:
        settings = dict(zip([a.removeprefix("settings.") for a in axes], key, strict=True))
        known = [name for name in measured.numbers if name in table]
        entries += [_summarize_values(settings, name, table[name]) for name in known]
    return [entry for entry in entries if entry["mean"] is not None]


def _summarize_values(
    settings: dict[str, Any], name: str, of_seeds: "pd.Series[float]"
) -> dict[str, Any]:
    values = of_seeds.dropna()
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
        **({"seeds": len(values)} if len(values) < len(of_seeds) else {}),
    }


def _read_hardware(results: Results) -> str:
    path = next(results.path.glob("*/*/environment.json"), None)
    environment = read_json(path) if path else {}
    precision = environment.get("precision", "float32")
    suffix = "" if precision == "float32" else f", {precision}"
    return (
        f"{environment.get('processor', 'unknown')}, torch {environment.get('torch', '?')}{suffix}"
    )


def _read_expected(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise RequestError(f"there is no file {path}")
    content: dict[str, Any] = json.loads(path.read_text())
    return content
