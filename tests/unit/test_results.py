"""Results read back: runs, their cells, and controls."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fl_sim.config.sweeps import expand_cells
from fl_sim.contracts import Row
from fl_sim.core.errors import RequestError
from fl_sim.experiment import Experiment
from fl_sim.results import Results, load_results, make_rows_table, run_folder, summarise_rows
from fl_sim.runs.summary import write_summary

Entry = tuple[str, dict[str, Any]]


def rows_of(run_id: str, seed: int, value: float) -> pd.DataFrame:
    """Two rounds of two clients, of which the second round counts; a client has no number."""
    rows = [Row(i, "accuracy", value * i) for i in (1, 2)]
    rows += [Row(i, "client_accuracy", value * i, 0, "clean") for i in (1, 2)]
    rows += [Row(2, "client_accuracy", float("nan"), 1, "protected", valid=False, note="none")]
    rows += [Row(1, "early", 7.0)]
    return make_rows_table(rows).assign(run_id=run_id, seed=seed)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Two settings and two seeds; `both` is two cells, and one of their controls.

    Written as an earlier version did: `rows.parquet` knows nothing of settings.
    """
    cells: list[Entry] = [
        ("one", {"rate": 0.1, "rule": "Mean"}),
        ("both", {"rate": 0.2, "rule": "Mean"}),
        ("both", {"rate": 0.2, "rule": "Median"}),
    ]
    controls: list[Entry] = [
        ("extra", {"rate": 0.1, "rule": "Mean", "control": "clean"}),
        ("both", {"rate": 0.1, "rule": "Mean", "control": "all"}),
    ]
    values = {"one": 0.1, "both": 0.2, "extra": 0.4}
    runs = [
        rows_of(name, seed, value + seed / 100) for name, value in values.items() for seed in (0, 1)
    ]

    def entries(of: list[Entry]) -> list[dict[str, Any]]:
        about = {"experiment": "toy", "status": "finished", "failures": []}
        return [
            {**about, "run_id": name, "seed": seed, "settings": settings}
            for name, settings in of
            for seed in (0, 1)
        ]

    pd.concat(runs).to_parquet(tmp_path / "rows.parquet", index=False)
    summary = {"experiment": "toy", "cells": entries(cells), "controls": entries(controls)}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    return load_results(tmp_path)


def test_a_row_has_the_settings_of_its_run(results: Results) -> None:
    rows = results.rows[results.rows.metric == "accuracy"]
    told = rows.groupby(["run_id", "is_control"])["value"].size().to_dict()
    assert told == {("one", False): 4, ("both", False): 8, ("extra", True): 4}
    by_rule = rows[~rows.is_control].groupby("settings.rule")["value"].mean()
    assert by_rule["Median"] == pytest.approx(0.205 * 1.5)
    assert set(rows[rows.is_control]["settings.control"]) == {"clean"}


def test_the_final_numbers_are_those_of_cells_after_the_last_round(results: Results) -> None:
    found = results.final("accuracy")
    assert set(found["round"]) == {2}
    assert "extra" not in set(found["run_id"])
    by_rate = found.groupby("settings.rate")["value"].agg(["mean", "count"])
    assert by_rate["mean"].tolist() == pytest.approx([0.21, 0.41])
    assert by_rate["count"].tolist() == [2, 4]
    assert sorted(found["seed"].unique()) == [0, 1]


def test_final_numbers_can_be_had_of_a_group(results: Results) -> None:
    both = results.final("client_accuracy")
    assert set(both["client"]) == {0, 1}
    assert both.groupby("client")["value"].mean().isna().tolist() == [False, True]
    assert set(results.final("client_accuracy", group="clean")["client"]) == {0}


def test_a_metric_without_the_last_round_is_not_final(results: Results) -> None:
    assert results.final("early").empty
    with pytest.raises(RequestError, match=r"no metric 'acuracy' in .*; there are accuracy"):
        results.final("acuracy")


def test_rows_on_disk_mark_controls(tmp_path: Path, experiment: Callable[..., Experiment]) -> None:
    cells = expand_cells(experiment(), {"client.learning_rate": [0.1, 0.2]}, [0])
    (control,) = expand_cells(experiment(rounds=3), {}, [0])
    for cell in (*cells, control):
        folder = run_folder(tmp_path, *cell.key)
        folder.mkdir(parents=True)
        make_rows_table([Row(1, "accuracy", 0.5)]).to_parquet(folder / "rows.parquet")
    write_summary(tmp_path, cells, [control], {})
    table = pd.read_parquet(tmp_path / "rows.parquet").set_index("run_id")["is_control"]
    assert table.to_dict() == {
        cells[0].key[0]: False,
        cells[1].key[0]: False,
        control.key[0]: True,
    }
    found = load_results(tmp_path).rows
    assert found["is_control"].sum() == 1
    assert "settings.client.learning_rate" in found


def test_without_any_run_there_are_no_rows(
    tmp_path: Path, experiment: Callable[..., Experiment]
) -> None:
    cells = expand_cells(experiment(), {}, [0])
    write_summary(tmp_path, cells, [], {cells[0].key: "it broke"})
    results = load_results(tmp_path)
    assert results.rows.empty
    assert {"run_id", "seed", "is_control"} <= set(results.rows.columns)
    with pytest.raises(RequestError, match="no metric 'accuracy'"):
        results.final("accuracy")


def scored(*cpu: float) -> pd.DataFrame:
    rows = [Row(i, "cpu_seconds", own) for i, own in enumerate(cpu, 1)]
    rows += [Row(1, name, 1.0) for name in ("seconds", "bytes_up", "bytes_down", "peak_mib")]
    last = max(1, len(cpu))
    return make_rows_table(
        [*rows, *(Row(last, n, 0.5) for n in ("accuracy", "loss", "mia_shift_auc"))]
    )


def test_processor_time_is_summed_if_every_round_has_it() -> None:
    assert summarise_rows(scored(1.0, 2.5))["cost"]["cpu_seconds"] == 3.5
    for unknown in (scored(1.0, float("nan")), scored()):
        cost = summarise_rows(unknown)["cost"]["cpu_seconds"]
        assert cost != cost
