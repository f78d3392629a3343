"""The cost of `fl-sim report` for many cells, measured by `python -m benchmarks.report`.

One small run and its controls are carried out; copies of its files then stand for every cell of a
grid, under the names and hashes of the cells. The folder is as large, and is read and checked as
thoroughly, as that of a real sweep.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model, run
from fl_sim.config.sweeps import Cell, expand_cells
from fl_sim.core.atomic_io import (
    SEAL,
    hash_file,
    read_json,
    read_table,
    write_bytes,
    write_json,
    write_sealed,
    write_table,
)
from fl_sim.data.layout import Layout
from fl_sim.experiment import Axes
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.results import FILES, RESULT, ROWS, run_folder, summarise_rows
from fl_sim.runs.summary import write_summary
from strategies.fedavg import FedAvg

RESULTS = Path(__file__).with_name("report.json")
EXPERIMENT = Experiment(
    name="many_cells",
    data=Data(dataset="digits", num_clients=3, num_samples=60, num_test=60),
    protection=LinearSeparable(),
    layout=Layout(fraction=0.5, unit="samples"),
    model=Model("small_cnn", norm="group"),
    client=SgdClient(),
    strategy=FedAvg(),
    rounds=2,
)
GRIDS: dict[str, Axes] = {  # by name: what is varied
    "fraction": {
        "client.learning_rate": [0.01 * i for i in range(1, 11)],
        "layout.fraction": [0.1 * i for i in range(1, 11)],
    },
    "crossed": {
        "client.learning_rate": [0.01 * i for i in range(1, 11)],
        "client.batch_size": [4 * i for i in range(1, 11)],
    },
    "one_seed": {
        "client.learning_rate": [0.01 * i for i in range(1, 11)],
        "client.batch_size": [4 * i for i in range(1, 11)],
        "client.momentum": [0.1 * i for i in range(5)],
    },
    "one_axis": {"client.learning_rate": [0.001 * i for i in range(1, 501)]},
}


def write_cells(root: Path, source: Path, cells: list[Cell]) -> None:
    """Write the results of cells and their controls, each a copy of one run's.

    Accuracies differ slightly from cell to cell, so that lines and dots do not coincide.

    Args:
        root: Folder of the experiment.
        source: Folder of the run to copy.
        cells: Cells to write.
    """
    every = [control for cell in cells for control in cell.controls().values()]
    controls = list({control.key: control for control in every}.values())
    content = {name: (source / name).read_bytes() for name in FILES}
    result, rows = read_json(source / RESULT), read_table(source / ROWS)
    for cell in {cell.key: cell for cell in (*cells, *controls)}.values():
        folder = run_folder(root, *cell.key)
        folder.mkdir(parents=True)
        for name in FILES:
            write_bytes(folder / name, content[name])
        write_json(folder / "experiment.json", json.loads(cell.experiment.to_json()))
        shifted = _shift_accuracies(rows, zlib.crc32(repr(cell.key).encode()) / 2**33)
        write_table(folder / ROWS, shifted)
        files = {name: hash_file(folder / name) for name in FILES}
        key = {"run_id": cell.run_id, "seed": cell.experiment.seed}
        fields = {name: value for name, value in result.items() if name != SEAL}
        write_sealed(folder / RESULT, {**fields, **key, **summarise_rows(shifted), "files": files})
    requested = {cell.key for cell in cells}
    write_summary(root, cells, [c for c in controls if c.key not in requested], {})


def _shift_accuracies(rows: pd.DataFrame, step: float) -> pd.DataFrame:
    """Return rows whose accuracies are higher by `step`, and at most 1."""
    chosen = rows["metric"].isin(["accuracy", "client_accuracy"])
    return rows.assign(value=rows["value"].where(~chosen, (rows["value"] + step).clip(upper=1)))


def measure(folder: Path) -> dict[str, float]:
    """Return the CPU seconds of `fl-sim report` on a folder, and the size of the page."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "fl_sim", "report", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    size = (folder / "report.html").stat().st_size
    return {"cpu_seconds": round(spent, 2), "page_megabytes": round(size / 1e6, 2)}


def main(
    grids: Annotated[str, typer.Option(help="Names, with commas between.")] = "fraction,crossed",
    out: Annotated[Path, typer.Option(help="File of the results.")] = RESULTS,
    keep: Annotated[Path | None, typer.Option(help="Folder to leave the cells in.")] = None,
) -> None:
    """Measure the report of 500 cells."""
    with tempfile.TemporaryDirectory() as temporary:
        parent = keep or Path(temporary)
        run(EXPERIMENT, out=parent / "source", controls=False)
        source = run_folder(parent / "source" / EXPERIMENT.name, EXPERIMENT.run_id, EXPERIMENT.seed)
        rows = []
        for name in grids.split(","):
            axes = GRIDS[name]
            points = len(expand_cells(EXPERIMENT, axes, [0]))
            cells = expand_cells(EXPERIMENT, axes, range(500 // points))
            root = parent / name
            write_cells(root, source, cells)
            rows.append({"grid": name, "cells": len(cells), **measure(root)})
            print(rows[-1], flush=True)
    write_json(out, rows)


if __name__ == "__main__":
    typer.run(main)
