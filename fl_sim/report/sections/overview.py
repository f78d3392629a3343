"""Overview of the experiment: its parts, and what was varied."""

from collections.abc import Container, Mapping
from typing import Any

from fl_sim.core.plugins import read_defaults
from fl_sim.report.components import DefinitionList, Section
from fl_sim.report.formats import UNDEFINED, format_count, format_dataset, format_value
from fl_sim.report.grid import Grid, list_distinct
from fl_sim.results.summaries import SETTINGS as PREFIX

PARTS = (
    ("partition", "Partition"),
    ("protection", "Protection"),
    ("layout", "Layout"),
    ("domains", "Domains"),
    ("model", "Model"),
    ("client", "Local training"),
    ("strategy", "Strategy"),
    ("participation", "Participation"),
    ("adversary", "Adversary"),
    ("failures", "On failure"),
)
SIZES = ("num_samples", "num_test")
FEW = 12
VARIED = "differs"


def build_title(grid: Grid) -> str:
    """Return the title of the page: the experiment and its datasets."""
    names = list_distinct(grid, "dataset")
    return f"{grid.name} on {' and '.join(map(format_dataset, names))}" if names else grid.name


def build_overview(grid: Grid) -> Section:
    """Return the parts of the experiment and the varied values as a list."""
    entries = [("Runs", _describe_runs(grid))]
    for axis, words in grid.axes.items():
        column, table = PREFIX + axis, grid.results.skipped
        known = list(table[column]) if column in table else []
        skipped = {format_value(each, column) for each in known} - set(words)
        left_out = f" (skipped: {', '.join(sorted(skipped))})" if skipped else ""
        entries.append((f"Varied: {axis}", " | ".join(words) + left_out))
    base = _choose_base(grid)
    if base:
        varied = _find_varied(grid, base)
        entries.append(("Dataset", _describe_data(grid, base, varied)))
        entries.append(("Clients", _describe_clients(base, varied)))
        entries += [
            (name, VARIED if key in varied else _describe_part(base[key], key, varied))
            for key, name in PARTS
            if key not in grid.axes and (key in varied or base.get(key) not in (None, []))
        ]
        entries.append(("Rounds", _describe_rounds(base, varied)))
    entries.append(("Seeds", ", ".join(map(str, grid.seeds))))
    entries.append(("Engine", ", ".join(list_distinct(grid, "engine")) or UNDEFINED))
    entries.append(("Run ids", _list_run_ids(grid)))
    note = "Fields at their defaults are left out; experiment.json of each run has them all."
    return Section("what", "What was run", (note,), (DefinitionList(tuple(entries)),))


def _describe_runs(grid: Grid) -> str:
    done, asked = len(grid.results.cells.query("status == 'finished'")), len(grid.results.cells)
    settings = format_count(len(grid.settings), "setting")
    failed = [f"{asked - done} FAILED"] if done < asked else []
    if controls := len(grid.results.failed_controls):
        failed.append(f"{format_count(controls, 'control')} FAILED")
    state = ", ".join(failed) or "all finished"
    if num_skipped := len(grid.results.skipped):
        state += f", {num_skipped} skipped"
    seeds = format_count(len(grid.seeds), "seed")
    return f"{settings}, {seeds}: {format_count(asked, 'run')}, {state}"


def _choose_base(grid: Grid) -> dict[str, Any]:
    """Return the experiment to describe: the most protected one, as others may have no noise."""
    described = [setting.experiment for setting in grid.finished if setting.experiment]
    return max(described, key=lambda e: _sum_fractions(e["layout"]), default={})


def _sum_fractions(layout: Any) -> float:
    """Return the protected share of a layout, or the sum over its clauses."""
    clauses = layout if isinstance(layout, list) else [layout]
    return sum(float(clause["fraction"]) for clause in clauses)


def _find_varied(grid: Grid, base: Mapping[str, Any]) -> set[str]:
    """Return the paths of the fields, or of whole parts, in which settings differ."""
    varied = set(grid.axes)
    for setting in grid.finished:
        for part, value in base.items():
            other_value = setting.experiment.get(part)
            if value == other_value:
                continue
            if (
                isinstance(value, Mapping)
                and isinstance(other_value, Mapping)
                and value.keys() == other_value.keys()
            ):
                names = [name for name in value if value[name] != other_value[name]]
                varied |= {part} if "class" in names else {f"{part}.{name}" for name in names}
            else:
                varied.add(part)
    return varied


def _describe_data(grid: Grid, base: Mapping[str, Any], varied: Container[str]) -> str:
    shared, tested = (_format_size(base["data"][key], f"data.{key}", varied) for key in SIZES)
    names = " and ".join(map(format_dataset, list_distinct(grid, "dataset")))
    origin = ", ".join(list_distinct(grid, "origin"))
    return (
        f"{names}: {shared} training images over all clients, {tested} test images; from {origin}"
    )


def _format_size(number: int | None, path: str, varied: Container[str]) -> str:
    return "all" if number is None and path not in varied else _format_field(number, path, varied)


def _describe_clients(base: Mapping[str, Any], varied: Container[str]) -> str:
    number = _format_field(base["data"]["num_clients"], "data.num_clients", varied)
    held_out = 100 * float(base["data"]["held_out"])
    if held_out == 0:
        return f"{number}; no images are held out, so there is no audit"
    return f"{number}; each holds out {held_out:g} % of its images for the audit"


def _describe_rounds(base: Mapping[str, Any], varied: Container[str]) -> str:
    path = "participation.clients_per_round"
    number = _format_field(base["participation"]["clients_per_round"], path, varied)
    who = "with all clients" if number == "none" else f"with {number} clients each"
    sampling = base["participation"].get("sampling")
    if isinstance(sampling, Mapping):
        who += f", chosen by {str(sampling['class']).split('.')[-1]}"
    if sampling == "poisson" and number != "none":
        who += " on average, drawn independently"
    if base.get("absences"):
        who += " of those that are not away"
    return f"{_format_field(base['rounds'], 'rounds', varied)}, {who}"


def _describe_part(part: Any, path: str, varied: Container[str]) -> str:
    """Return a part of an experiment as text: its class and its fields."""
    if part is None:
        return "none"
    if isinstance(part, list):
        return " + ".join(_format_field(item, path, ()) for item in part) or "none"
    defaults = read_defaults(str(part["class"]))
    fields = [
        f"{name} {_format_field(content, f'{path}.{name}', varied)}"
        for name, content in part.items()
        if name != "class"
        and (f"{path}.{name}" in varied or name not in defaults or content != defaults[name])
    ]
    name = str(part["class"]).split(".")[-1]
    return f"{name} ({', '.join(fields)})" if fields else name


def describe_parts(grid: Grid, name: str) -> list[str]:
    """Return a part of the experiment as text for each setting that has it, each text once."""
    parts = [setting.experiment.get(name) for setting in grid.finished]
    return list(dict.fromkeys(_describe_part(part, name, ()) for part in parts if part))


def _format_field(content: Any, path: str, varied: Container[str]) -> str:
    if path in varied:
        return VARIED
    nested = isinstance(content, dict | list)
    return _describe_part(content, path, varied) if nested else format_value(content, path)


def _list_run_ids(grid: Grid) -> str:
    ids = list_distinct(grid, "run_id")
    return ", ".join(ids) if len(ids) <= FEW else f"{len(ids)}; see the last table"
