"""The timeline shows what the script says and what the results say, no more and no less."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from clients.sgd import SgdClient
from clients.sign_flip import SignFlipClient
from fl_sim import Adversary, AvailabilityWindow, Data, Experiment, Participation
from fl_sim.contracts import Row
from fl_sim.core.atomic_io import write_json, write_table
from fl_sim.data.layout import Layout
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.report.grid import Grid, build_grid
from fl_sim.report.sections.timeline import Timeline, draw_timelines, reconstruct_timeline
from fl_sim.results import load_results, make_rows_table, run_folder
from fl_sim.schedule import Schedule
from strategies.fedavg import FedAvg

PLAN: dict[str, Any] = {
    "name": "toy",
    "client": SgdClient(),
    "strategy": FedAvg(),
    "data": Data(dataset="digits", num_clients=6),
    "protection": RandomNoise(),
    "layout": Layout(0.5, "clients", first_round=3),
    "adversary": Adversary(SignFlipClient(), 2, among="clean", first_round=5, last_round=6),
    "participation": Participation(stays=(AvailabilityWindow(1, last_round=4),), drop_out=0.2),
    "rounds": 8,
}


def written(root: Path, experiment: Experiment, seeds: tuple[int, ...] = (0,)) -> Grid:
    """Write what a run of the experiment would leave behind, by its own script."""
    cells, tables = [], []
    for seed in seeds:
        script, rows, failures = Schedule(experiment.with_value("seed", seed)), [], []
        count = experiment.data.num_clients
        guarded = protecting(script.experiment)
        for number in range(1, experiment.rounds + 1):
            asked = script.choose_clients(number, list(range(count)))
            absent = script.find_absent(number, asked)
            failures += [
                {"round": number, "client": c, "cause": cause} for c, cause in absent.items()
            ]
            rows.append(Row(number, "accuracy", 0.3 + 0.05 * number + 0.01 * seed))
            rows += [Row(number, "train_loss", 1.0, c) for c in asked if c not in absent]
            rows += [Row(number, "protected_share", float(c in guarded), c) for c in range(count)]
        folder = run_folder(root, "0123456789ab", seed)
        folder.mkdir(parents=True)
        write_json(folder / "experiment.json", json.loads(script.experiment.to_json()))
        tables.append(make_rows_table(rows).assign(run_id="0123456789ab", seed=seed))
        cells.append(
            {
                "experiment": "toy",
                "run_id": "0123456789ab",
                "seed": seed,
                "status": "finished",
                "settings": {},
                "accuracy": 0.7,
                "failures": failures,
            }
        )
    write_table(root / "rows.parquet", pd.concat(tables))
    write_json(root / "summary.json", {"experiment": "toy", "cells": cells, "controls": []})
    return build_grid(load_results(root))


def protecting(experiment: Experiment) -> set[int]:
    count = experiment.data.num_clients
    clients = torch.arange(count)
    layout, marks = experiment.layout, (clients, clients >= 0, clients)
    marked = layout.choose_protected(*marks, count, count, experiment.seed)
    return set(clients[marked].tolist())


def drawn_from(tmp_path: Path, **fields: Any) -> tuple[Schedule, Timeline]:
    experiment = Experiment(**(PLAN | fields))
    grid = written(tmp_path / "toy", experiment)
    line = reconstruct_timeline(grid, grid.finished[0])
    assert line is not None
    return Schedule(experiment), line


def test_every_square_is_what_the_script_says(tmp_path: Path) -> None:
    script, line = drawn_from(tmp_path)
    assert line.delivered.shape == (6, 8)
    for number in range(1, 9):
        asked = script.choose_clients(number, list(range(6)))
        absent = script.find_absent(number, asked)
        for client in range(6):
            place = client, number - 1
            delivers = client in asked and client not in absent
            assert line.delivered[place] == delivers
            assert line.lost[place] == (client in absent)
            assert line.away[place] == (client == 1 and number > 4)
            assert line.attacked[place] == (delivers and client in script.attackers(number))
    assert not line.protected[:, :2].any()
    assert int(line.protected[:, 2:].any(1).sum()) == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"adversary": None, "participation": Participation()},
        {"layout": Layout(0.5, "clients"), "participation": Participation(), "adversary": None}
        | {"adversary": Adversary(SignFlipClient(), 2, first_round=8)},
        {"layout": Layout(0.5, "clients"), "adversary": None},
    ],
)
def test_a_timeline_is_drawn_where_anything_happens(tmp_path: Path, fields: dict[str, Any]) -> None:
    grid = written(tmp_path / "toy", Experiment(**(PLAN | fields)))
    (drawing,) = draw_timelines(grid)
    assert drawing.name == "timeline"
    assert drawing.render("png")[:4] == b"\x89PNG"


def test_a_script_without_events_is_not_drawn(tmp_path: Path) -> None:
    steady = {
        "layout": Layout(0.5, "clients"),
        "adversary": Adversary(SignFlipClient(), 2),
        "participation": Participation(),
    }
    assert draw_timelines(written(tmp_path / "toy", Experiment(**(PLAN | steady)))) == []


def test_an_experiment_that_can_no_longer_be_read_is_not_drawn(tmp_path: Path) -> None:
    grid = written(tmp_path / "toy", Experiment(**PLAN))
    path = run_folder(tmp_path / "toy", "0123456789ab", 0) / "experiment.json"
    path.write_text(path.read_text().replace("SignFlipClient", "GoneClient"))
    assert draw_timelines(build_grid(load_results(tmp_path / "toy"))) == []
    assert grid.finished


def test_the_same_results_give_the_same_picture(tmp_path: Path) -> None:
    grid = written(tmp_path / "toy", Experiment(**PLAN), seeds=(0, 1, 2))
    assert draw_timelines(grid)[0].svg == draw_timelines(grid)[0].svg
    assert "Grey curves" in draw_timelines(grid)[0].caption


def test_of_many_clients_those_with_events_are_drawn() -> None:
    flags = np.zeros((100, 4), dtype=np.bool_)
    attacked, protected = flags.copy(), flags.copy()
    attacked[77, 2] = protected[88] = True
    line = Timeline(~flags, protected, attacked, flags, flags)
    shown = line.select_clients()
    assert len(shown) == 40
    assert {77, 88} <= set(shown)
    assert shown == sorted(shown)
