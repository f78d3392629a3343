"""Writes the summary of an experiment's runs: `summary.json` and `rows.parquet`."""

from pathlib import Path
from typing import Any

from fl_sim.config.sweeps import Cell
from fl_sim.core.atomic_io import DamagedFileError, write_sealed, write_table
from fl_sim.results import ROWS, checked_result, protection_numbers, rows_of_runs, run_folder
from fl_sim.results.tables import SUMMARY

DAMAGE = ("DamagedFileError: ", "CheckpointError: ")


def write_summary(
    root: Path, cells: list[Cell], controls: list[Cell], errors: dict[tuple[str, int], str]
) -> None:
    """Write `summary.json` and `rows.parquet` of an experiment."""
    seeds: dict[str, list[int]] = {}
    for run_id, seed in dict.fromkeys(cell.key for cell in cells):
        seeds.setdefault(run_id, []).append(seed)
    asked = [_entry(root, cell, seeds, errors) for cell in cells]
    beside = [_entry(root, control, seeds, errors) for control in controls]
    root.mkdir(parents=True, exist_ok=True)
    whole = [(e["run_id"], e["seed"]) for e in asked + beside if e["status"] != "damaged"]
    rows = write_table(root / ROWS, rows_of_runs(root, whole, [cell.key for cell in cells]))
    summary = {"experiment": cells[0].experiment.name, "cells": asked, "controls": beside}
    write_sealed(root / SUMMARY, {**summary, "files": {ROWS: rows}})


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
    error = errors.get(cell.key, "not finished")
    result, damage = _read(root, cell)
    if result is None:
        status = "damaged" if damage or error.startswith(DAMAGE) else "failed"
        return {**about, "status": status, "error": damage or error}
    references = {name: _read(root, control)[0] for name, control in cell.controls().items()}
    own = None if cell.experiment.layout.fraction else result
    numbers = protection_numbers(result, references.get("all", own), references.get("clean", own))
    return {**result, **about, "protection": numbers}


def _read(root: Path, cell: Cell) -> tuple[dict[str, Any] | None, str]:
    """Return the result of a finished run, or None, and how its files are damaged."""
    try:
        return checked_result(run_folder(root, *cell.key), cell.key), ""
    except DamagedFileError as damage:
        return None, str(damage)
