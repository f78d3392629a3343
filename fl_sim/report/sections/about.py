"""What was run, on what, and what went wrong."""

from collections.abc import Container, Iterable, Mapping
from typing import Any

from fl_sim.report.formats import UNDEFINED, count, dataset, value
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.parts import Cell, Definitions, Section, Table, table
from fl_sim.report.tables import failed_runs

PARTS = (
    ("partition", "Partition"),
    ("protection", "Protection"),
    ("layout", "Layout"),
    ("model", "Model"),
    ("client", "Local training"),
    ("strategy", "Strategy"),
    ("participation", "Participation"),
    ("adversary", "Adversary"),
    ("failures", "On failure"),
)
SIZES = ("num_samples", "num_test")
MAX_FAILURES = 50
FEW = 12
VARIED = "varied"


def title(grid: Grid) -> str:
    """Return what was run on which data."""
    names = _distinct(grid, "dataset")
    return f"{grid.name} on {' and '.join(map(dataset, names))}" if names else grid.name


def what_was_run(grid: Grid) -> Section:
    """Return the experiment as a list of its parts, and what was varied."""
    entries = [("Runs", _runs_in_words(grid))]
    for axis, words in grid.axes.items():
        entries.append((f"Varied: {axis}", " | ".join(words)))
    base = _base(grid)
    if base:
        varied = _varied(grid, base)
        entries += [("Dataset", _data(grid, base, varied)), ("Clients", _clients(base, varied))]
        entries += [
            (name, VARIED if key in varied else _in_words(base[key], key, varied))
            for key, name in PARTS
            if key not in grid.axes
        ]
        entries.append(("Rounds", _rounds(base, varied)))
    entries.append(("Seeds", ", ".join(map(str, grid.seeds))))
    entries.append(("Engine", ", ".join(_distinct(grid, "engine")) or UNDEFINED))
    entries.append(("Run ids", _run_ids(grid)))
    return Section("what", "What was run", (), (Definitions(tuple(entries)),))


def failures(grid: Grid) -> Section | None:
    """Return the runs that did not finish and the clients that did not deliver."""
    failed, lost = failed_runs(grid), grid.results.failures
    if not failed and lost.empty:
        return None
    parts = []
    if failed:
        rows = [
            [*map(Cell, grid.words(setting)), Cell(str(seed)), Cell(error)]
            for setting, seed, error in failed
        ]
        parts.append(table("Runs that did not finish", grid.heads, ["seed", "error"], rows, False))
    if len(lost):
        parts.append(_lost_clients(grid))
    words = f"{count(len(failed), 'run')} did not finish; "
    words += f"{count(len(lost), 'time')} a client did not deliver (controls included)."
    return Section("failures", "Failures", (words,), tuple(parts))


def environment(grid: Grid) -> Section:
    """Return what the bits depend on, and every run with its id."""
    names = dict.fromkeys(name for setting in grid.finished for name in setting.environment)
    entries = tuple(
        (name, ", ".join(dict.fromkeys(str(s.environment.get(name)) for s in grid.finished)))
        for name in names
    )
    same = (
        "Same experiment, same seed, same environment: same bits, on every engine and for any "
        "number of workers.",
    )
    parts = (Definitions(entries), _runs(grid)) if entries else (_runs(grid),)
    return Section("environment", "Environment and runs", same, parts)


def _runs_in_words(grid: Grid) -> str:
    done, asked = len(grid.results.cells.query("status == 'finished'")), len(grid.results.cells)
    settings = count(len(grid.settings), "setting")
    state = "all finished" if done == asked else f"{asked - done} FAILED"
    return f"{settings}, {count(len(grid.seeds), 'seed')}: {count(asked, 'run')}, {state}"


def _base(grid: Grid) -> dict[str, Any]:
    """Return the description to quote: where most is protected, as the others may have no noise."""
    described = [setting.experiment for setting in grid.finished if setting.experiment]
    return max(described, key=lambda e: float(e["layout"]["fraction"]), default={})


def _varied(grid: Grid, base: Mapping[str, Any]) -> set[str]:
    """Return the paths of all fields, or of whole parts, in which settings differ."""
    found = set(grid.axes)
    for setting in grid.finished:
        for part, own in base.items():
            other = setting.experiment.get(part)
            if own == other:
                continue
            if (
                isinstance(own, Mapping)
                and isinstance(other, Mapping)
                and own.keys() == other.keys()
            ):
                names = [name for name in own if own[name] != other[name]]
                found |= {part} if "class" in names else {f"{part}.{name}" for name in names}
            else:
                found.add(part)
    return found


def _data(grid: Grid, base: Mapping[str, Any], varied: Container[str]) -> str:
    shared, tested = (_size(base["data"][key], f"data.{key}", varied) for key in SIZES)
    names = " and ".join(map(dataset, _distinct(grid, "dataset")))
    origin = ", ".join(_distinct(grid, "origin"))
    return f"{names}; {shared} training images shared out, {tested} test images; from {origin}"


def _size(number: int | None, path: str, varied: Container[str]) -> str:
    return "all" if number is None and path not in varied else _field(number, path, varied)


def _clients(base: Mapping[str, Any], varied: Container[str]) -> str:
    number = _field(base["data"]["num_clients"], "data.num_clients", varied)
    held_out = 100 * float(base["data"]["held_out"])
    if held_out == 0:
        return f"{number}; no images are held out, so nothing is audited"
    return f"{number}; each holds {held_out:g} % of its images out for the audit"


def _rounds(base: Mapping[str, Any], varied: Container[str]) -> str:
    path = "participation.clients_per_round"
    number = _field(base["participation"]["clients_per_round"], path, varied)
    who = "every client in each" if number == "none" else f"{number} clients in each"
    if base["participation"].get("sampling") == "poisson" and number != "none":
        who += " on average, drawn one by one"
    return f"{_field(base['rounds'], 'rounds', varied)}, {who}"


def _in_words(part: Any, path: str, varied: Container[str]) -> str:
    """Return a part of an experiment in words: its class and its fields."""
    if part is None:
        return "none"
    if isinstance(part, list):
        return " + ".join(_field(item, path, ()) for item in part) or "none"
    fields = [
        f"{name} {_field(content, f'{path}.{name}', varied)}"
        for name, content in part.items()
        if name != "class"
    ]
    name = str(part["class"]).split(".")[-1]
    return f"{name} ({', '.join(fields)})" if fields else name


def _field(content: Any, path: str, varied: Container[str]) -> str:
    if path in varied:
        return VARIED
    nested = isinstance(content, dict | list)
    return _in_words(content, path, varied) if nested else value(content, path)


def _distinct(grid: Grid, column: str) -> list[str]:
    """Return the different values of a column of the summary."""
    cells = grid.results.cells
    return list(dict.fromkeys(map(str, cells[column].dropna()))) if column in cells else []


def _run_ids(grid: Grid) -> str:
    ids = _distinct(grid, "run_id")
    return ", ".join(ids) if len(ids) <= FEW else f"{len(ids)}, in the last table"


def _runs(grid: Grid) -> Table:
    rows = []
    for setting in grid.settings:
        ids = ", ".join(dict.fromkeys(map(str, setting.cells["run_id"])))
        seeds = ", ".join(map(str, setting.cells["seed"]))
        states = ", ".join(dict.fromkeys(map(str, setting.cells["status"])))
        rows.append([*map(Cell, grid.words(setting)), Cell(ids), Cell(seeds), Cell(states)])
    return table("Runs by setting", grid.heads, ["run id", "seeds", "status"], rows, False)


def _lost_clients(grid: Grid) -> Table:
    labels = _labels(grid.settings)
    lost = grid.results.failures
    rows = [
        [
            Cell(labels.get(str(run_id), f"control {run_id}") or grid.name),
            *(Cell(str(item)) for item in rest),
        ]
        for run_id, *rest in lost.head(MAX_FAILURES).itertuples(index=False)
    ]
    more = len(lost) - len(rows)
    caption = "Clients that did not deliver" + (f", the first {len(rows)}" if more else "")
    return table(caption, ["run"], ["seed", "round", "client", "cause"], rows, False)


def _labels(settings: Iterable[Setting]) -> dict[str, str]:
    """Return the label of every run id; settings in which nothing is protected may share one."""
    found: dict[str, str] = {}
    for setting in settings:
        for run_id in setting.cells["run_id"]:
            found.setdefault(str(run_id), setting.label)
    return found
