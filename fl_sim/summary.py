"""What the runs of an experiment add up to: `summary.json` and `rows.parquet`."""

from pathlib import Path
from typing import Any

import pandas as pd

from fl_sim.atomic_io import write_json, write_table
from fl_sim.cells import Cell
from fl_sim.results import protection_numbers, read_result, rows_table, run_folder


def write_summary(
    root: Path, cells: list[Cell], controls: list[Cell], errors: dict[tuple[str, int], str]
) -> None:
    """Write `summary.json` and `rows.parquet` of an experiment."""
    seeds: dict[str, list[int]] = {}
    for cell in cells:
        own = seeds.setdefault(cell.run_id, [])
        if cell.experiment.seed not in own:
            own.append(cell.experiment.seed)
    summary = {
        "experiment": cells[0].experiment.name,
        "cells": [_entry(root, cell, seeds, errors) for cell in cells],
        "controls": [_entry(root, control, seeds, errors) for control in controls],
    }
    root.mkdir(parents=True, exist_ok=True)
    write_table(root / "rows.parquet", _all_rows(root, cells, controls))
    write_json(root / "summary.json", summary)


def _entry(
    root: Path, cell: Cell, seeds: dict[str, list[int]], errors: dict[tuple[str, int], str]
) -> dict[str, Any]:
    run_id, seed = cell.key
    result = read_result(run_folder(root, run_id, seed))
    about = {
        "experiment": cell.experiment.name,
        "run_id": run_id,
        "seed": seed,
        "seeds": seeds.get(run_id, [seed]),
        "settings": cell.settings,
        "label": cell.label,
    }
    if result is None:
        return {**about, "status": "failed", "error": errors.get((run_id, seed), "not finished")}
    references = {
        name: read_result(run_folder(root, *control.key))
        for name, control in cell.controls().items()
    }
    own = None if cell.experiment.layout.fraction else result
    numbers = protection_numbers(result, references.get("all", own), references.get("clean", own))
    return {**result, **about, "protection": numbers}


def _all_rows(root: Path, cells: list[Cell], controls: list[Cell]) -> pd.DataFrame:
    """Return the rows of every run, once each, and whether it is a control and no cell."""
    asked, tables = {cell.key for cell in cells}, []
    for key in dict.fromkeys(cell.key for cell in (*cells, *controls)):
        run_id, seed = key
        path = run_folder(root, run_id, seed) / "rows.parquet"
        if path.exists():
            table = pd.read_parquet(path)
            tables.append(table.assign(run_id=run_id, seed=seed, is_control=key not in asked))
    return pd.concat(tables, ignore_index=True) if tables else rows_table([])
