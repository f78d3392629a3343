"""What the runs of an experiment add up to: `summary.json` and `rows.parquet`."""

from pathlib import Path
from typing import Any

from fl_sim.atomic_io import DamagedFileError, write_sealed, write_table
from fl_sim.cells import Cell
from fl_sim.results import (
    ROWS,
    checked_result,
    protection_numbers,
    rows_of_runs,
    run_folder,
)


def write_summary(
    root: Path, cells: list[Cell], controls: list[Cell], errors: dict[tuple[str, int], str]
) -> None:
    """Write `summary.json` and `rows.parquet` of an experiment."""
    seeds: dict[str, list[int]] = {}
    for cell in cells:
        own = seeds.setdefault(cell.run_id, [])
        if cell.experiment.seed not in own:
            own.append(cell.experiment.seed)
    asked = [_entry(root, cell, seeds, errors) for cell in cells]
    beside = [_entry(root, control, seeds, errors) for control in controls]
    root.mkdir(parents=True, exist_ok=True)
    whole = [(e["run_id"], e["seed"]) for e in asked + beside if e["status"] != "damaged"]
    rows = write_table(root / ROWS, rows_of_runs(root, whole, [cell.key for cell in cells]))
    summary = {"experiment": cells[0].experiment.name, "cells": asked, "controls": beside}
    write_sealed(root / "summary.json", {**summary, "files": {ROWS: rows}})


def _entry(
    root: Path, cell: Cell, seeds: dict[str, list[int]], errors: dict[tuple[str, int], str]
) -> dict[str, Any]:
    run_id, seed = cell.key
    about = {
        "experiment": cell.experiment.name,
        "run_id": run_id,
        "seed": seed,
        "seeds": seeds.get(run_id, [seed]),
        "settings": cell.settings,
        "label": cell.label,
    }
    error = errors.get((run_id, seed), "not finished")
    try:
        result = checked_result(run_folder(root, run_id, seed), cell.key)
    except DamagedFileError as damage:
        return {**about, "status": "damaged", "error": str(damage)}
    if result is None:
        status = "damaged" if error.startswith(DAMAGE) else "failed"
        return {**about, "status": status, "error": error}
    references = {name: _known(root, control) for name, control in cell.controls().items()}
    own = None if cell.experiment.layout.fraction else result
    numbers = protection_numbers(result, references.get("all", own), references.get("clean", own))
    return {**result, **about, "protection": numbers}


def _known(root: Path, control: Cell) -> dict[str, Any] | None:
    """Return the result of a control, or None where it has none that can be read."""
    try:
        return checked_result(run_folder(root, *control.key), control.key)
    except DamagedFileError:
        return None


DAMAGE = ("DamagedFileError: ", "CheckpointError: ")
