"""Summary of an experiment's runs: writes `summary.json` and `rows.parquet`."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from fl_sim.config.sweeps import Cell, SkippedCell
from fl_sim.core.atomic_io import DamagedFileError, write_sealed, write_table
from fl_sim.metrics.recovery import recovery_rounds
from fl_sim.results import (
    ROWS,
    compare_with_controls,
    compare_with_honest,
    read_result,
    read_run_rows,
    run_folder,
)
from fl_sim.results.tables import SUMMARY, UNFINISHED

UPDATE_PAUSE = 5.0  # seconds, at least, between two summaries of runs that go on
UPDATE_SHARE = 0.02  # of the time that is spent on them, at most
DAMAGE_ERRORS = ("DamagedFileError: ", "CheckpointError: ")


class SummaryUpdates:
    """Writes the summary of an experiment now and then while its runs go on."""

    def __init__(
        self,
        root: Path,
        cells: list[Cell],
        controls: list[Cell],
        skipped: Sequence[SkippedCell],
        question: str,
    ) -> None:
        """Take the same as `write_summary`."""
        self.errors: dict[tuple[str, int], str] = {}
        self.content = (root, cells, controls, self.errors, skipped, question)
        self.due = perf_counter() + UPDATE_PAUSE

    def note(self, job: Cell, error: str) -> None:
        """Note that a run has ended, with its error or an empty string."""
        if error:
            self.errors[job.key] = error
        started = perf_counter()
        if started >= self.due:
            write_summary(*self.content)
            now = perf_counter()
            self.due = now + max(UPDATE_PAUSE, (now - started) / UPDATE_SHARE)


def write_summary(
    root: Path,
    cells: list[Cell],
    controls: list[Cell],
    errors: dict[tuple[str, int], str],
    skipped: Sequence[SkippedCell] = (),
    question: str = "",
) -> None:
    """Write `summary.json` and `rows.parquet` of an experiment, with the question it answers."""
    seeds: dict[str, list[int]] = {}
    for run_id, seed in dict.fromkeys(cell.key for cell in cells):
        seeds.setdefault(run_id, []).append(seed)
    entries = [_make_entry(root, cell, seeds, errors) for cell in (*cells, *controls)]
    root.mkdir(parents=True, exist_ok=True)
    undamaged = [(e["run_id"], e["seed"]) for e in entries if e["status"] != "damaged"]
    rows = write_table(root / ROWS, read_run_rows(root, undamaged, [cell.key for cell in cells]))
    summary = {"experiment": cells[0].experiment.name, "cells": entries[: len(cells)]}
    summary["controls"] = entries[len(cells) :]
    if question:
        summary["question"] = question
    if skipped:
        summary["skipped"] = [cell.describe() for cell in skipped]
    write_sealed(root / SUMMARY, {**summary, "files": {ROWS: rows}})


def _make_entry(
    root: Path, cell: Cell, seeds: dict[str, list[int]], errors: dict[tuple[str, int], str]
) -> dict[str, Any]:
    run_id, seed = cell.key
    identity = {
        "experiment": cell.experiment.name,
        "run_id": run_id,
        "seed": seed,
        "seeds": seeds.get(run_id, [seed]),
        "settings": cell.settings,
        "label": cell.label,
    }
    error = errors.get(cell.key, UNFINISHED)
    result, damage = _read_result(root, cell)
    if result is None:
        status = "damaged" if damage or error.startswith(DAMAGE_ERRORS) else "failed"
        return {**identity, "status": status, "error": damage or error}
    references = {name: _read_result(root, control)[0] for name, control in cell.controls().items()}
    own_result = None if cell.experiment.protects_images else result
    numbers = compare_with_controls(
        result, references.get("all", own_result), references.get("clean", own_result)
    )
    if "honest" in references:
        numbers_of_attack: dict[str, Any] = compare_with_honest(result, references["honest"])
        if references["honest"] is not None:
            rounds, note = _measure_recovery(root, cell)
            numbers_of_attack |= {"recovery_rounds": rounds, "recovery_rounds_note": note}
        identity["attack"] = numbers_of_attack
    return {**result, **identity, "protection": numbers}


def _measure_recovery(root: Path, cell: Cell) -> tuple[float, str]:
    """Return the rounds that a run takes to recover, and a reason if it does not."""
    keys = cell.key, cell.controls()["honest"].key
    rows = read_run_rows(root, keys)
    rows = rows[(rows["metric"] == "accuracy") & (rows["client"] == -1) & (rows["group"] == "all")]
    run, honest = (
        dict(zip(own["round"].astype(int), own["value"].astype(float), strict=True))
        for own in (rows[(rows["run_id"] == name) & (rows["seed"] == seed)] for name, seed in keys)
    )
    return recovery_rounds(cell.experiment.last_attack, run, honest)


def _read_result(root: Path, cell: Cell) -> tuple[dict[str, Any] | None, str]:
    """Return the result of a finished run, or None, and a description of any damage."""
    try:
        return read_result(run_folder(root, *cell.key), cell.key), ""
    except DamagedFileError as damage:
        return None, str(damage)
