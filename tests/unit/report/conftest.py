"""A small results folder, made without running anything, for every test of the report."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fl_sim.contracts import Row
from fl_sim.contracts.validity import invalidate
from fl_sim.core.atomic_io import write_json, write_table
from fl_sim.metrics._shared.groups import gap_rows, mean_rows
from fl_sim.metrics.fairness import statistics
from fl_sim.results import (
    Results,
    compare_with_controls,
    load_results,
    make_rows_table,
    run_folder,
    summarise_rows,
)

CLASSES = ("top", "trousers", "<bag>", "boot")


@dataclass(frozen=True)
class Sweep:
    """A synthetic sweep.

    Attributes:
        axes: values in words by field path.
        broken: says of settings and seed whether the run failed.
        lost: clients that did not deliver, in every run.
        num_non_members: number of audited records that were not trained on.
        groups: of the clients, in turn; () goes by the protected fraction.
        benefit: whether clients were also trained alone.
        diverged: says of settings and seed whether the model diverged in the last round.
        untested: clients without an accuracy, and with no processor time measured either.
        side_by_side: how many runs shared the machine.
    """

    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    rounds: int = 3
    num_clients: int = 5
    num_non_members: int = 120
    broken: Callable[[dict[str, Any], int], bool] = lambda settings, seed: False
    lost: tuple[dict[str, Any], ...] = ()
    groups: tuple[str, ...] = ()
    benefit: bool = False
    diverged: Callable[[dict[str, Any], int], bool] = lambda settings, seed: False
    untested: tuple[int, ...] = ()
    side_by_side: int = 1


@pytest.fixture(scope="session")
def make_results(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sweep], Results]:
    """Return a function that writes a sweep's results, to a new folder, and reads them back."""
    return lambda sweep: write_sweep(tmp_path_factory.mktemp("results") / "toy", sweep)


@pytest.fixture(scope="session")
def sweep() -> type[Sweep]:
    return Sweep


def write_sweep(root: Path, sweep: Sweep) -> Results:
    cells, tables = [], []
    for values in product(*sweep.axes.values()):
        settings = dict(zip(sweep.axes, values, strict=True))
        for seed in sweep.seeds:
            entry, rows = _write_run(root, sweep, settings, seed)
            cells.append(entry)
            tables.append(rows)
    there = [table for table in tables if len(table)]
    root.mkdir(parents=True, exist_ok=True)
    write_table(root / "rows.parquet", pd.concat(there) if there else pd.DataFrame())
    write_json(root / "summary.json", {"experiment": "toy", "cells": cells, "controls": []})
    return load_results(root)


def _write_run(
    root: Path, sweep: Sweep, settings: dict[str, Any], seed: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    run_id = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    about = {
        "experiment": "toy",
        "run_id": run_id,
        "seed": seed,
        "seeds": list(sweep.seeds),
        "settings": settings,
        "label": str(settings),
    }
    if sweep.broken(settings, seed):
        return {**about, "status": "failed", "error": "RunFailed: [no] <updates>"}, pd.DataFrame()
    fraction = float(settings.get("layout.fraction", 0.0))
    rng = np.random.default_rng([seed, int(run_id, 16)])
    broken = sweep.diverged(settings, seed)
    rows = make_rows_table(_spoilt(row, sweep, broken) for row in _rows(rng, sweep, fraction))
    folder = run_folder(root, run_id, seed)
    folder.mkdir(parents=True)
    write_json(folder / "experiment.json", _experiment(settings, fraction, seed))
    write_json(
        folder / "environment.json", {"fl_sim": "0.1.0", "torch": "2.13.0", "engine": "local"}
    )
    _signals(rng, sweep).to_parquet(folder / "signals.parquet")
    _save_samples(folder / "samples.npz", rng, sweep, fraction)
    numbers = summarise_rows(rows)
    clean = {"accuracy": 0.6, "best_accuracy": 0.62} if fraction < 1 else None
    controls = ({"accuracy": 0.8, "best_accuracy": 0.81}, clean) if fraction else (numbers, numbers)
    entry = {
        **about,
        **numbers,
        "engine": "local",
        "side_by_side": sweep.side_by_side,
        "status": "finished",
        "dataset": "fashion_mnist",
        "origin": "/data/fashion_mnist",
        "num_parameters": 12810,
        "protection": compare_with_controls(numbers, *controls),
        "failures": list(sweep.lost),
    }
    return entry, rows.assign(run_id=run_id, seed=seed)


def _spoilt(row: Row, sweep: Sweep, diverged: bool) -> Row:
    """Return the row, without its number where there is none."""
    made = row.metric.startswith(("accuracy", "loss", "client_acc", "fairness", "mia"))
    if diverged and made and row.round == sweep.rounds:
        return invalidate(row, "the model diverged")
    if row.metric == "client_accuracy" and row.client in sweep.untested:
        return invalidate(row, "no test image of its classes")
    if sweep.untested and row.metric == "fairness_mean":
        return row._replace(note=f"{len(sweep.untested)} of 5 clients left out: not defined")
    if sweep.untested and row.metric == "cpu_seconds":
        return invalidate(row, "Flower's nodes do not say what they use")
    return row


def _rows(rng: np.random.Generator, sweep: Sweep, fraction: float) -> Iterator[Row]:
    group = "protected" if fraction > 0.75 else "clean" if fraction < 0.25 else "mixed"
    for i in range(1, sweep.rounds + 1):
        own = rng.uniform(0.4, 0.9, sweep.num_clients)
        yield Row(i, "accuracy", float(own.mean()), low=0.3, high=0.9)
        yield Row(i, "loss", 1.0 / i)
        areas = rng.uniform(0.45, 0.65, sweep.num_clients)
        for client, (accuracy, area) in enumerate(zip(own, areas, strict=True)):
            its_group = sweep.groups[client % len(sweep.groups)] if sweep.groups else group
            yield Row(i, "client_accuracy", float(accuracy), client, its_group)
            yield Row(i, "mia_margin_auc", float(area), client)
            yield Row(i, "protected_share", fraction, client)
            attacks = client == 1 and i > 1
            share, about = (0.0, "attacker") if attacks else (0.25, group)
            yield Row(i, "rule_share", share, client, about)
            yield Row(i, "rule_scale", 0.5 if client == 2 else 1.0, client, about)
        for name, number in (("seconds", 1.5), ("bytes_up", 2e6), ("bytes_down", 3e6)):
            yield Row(i, name, number)
        yield Row(i, "cpu_seconds", float(rng.uniform(0.5, 1.0)))
        yield Row(i, "peak_mib", 512.0)
        yield from _fairness_rows(i, "fairness", own, sweep.groups or (group,))
        yield from _fairness_rows(i, "fairness_leakage", areas, sweep.groups or (group,))
        yield Row(i, "fairness_leakage_excess_spread", 0.01)
        if sweep.benefit:
            yield Row(i, "fairness_benefit_mean", 0.125)
            note = "all give alike, or all get alike"
            yield Row(i, "fairness_collaboration_alone", float("nan"), valid=False, note=note)
        yield from _leakage_rows(i, rng, sweep.num_non_members)


def _fairness_rows(
    i: int, prefix: str, values: np.ndarray, groups: tuple[str, ...]
) -> Iterator[Row]:
    for name, value in statistics(torch.from_numpy(values), prefix == "fairness").items():
        yield Row(i, f"{prefix}_{name}", value)
    every = [groups[client % len(groups)] for client in range(len(values))]
    yield from mean_rows(i, f"{prefix}_mean", torch.from_numpy(values), every)
    yield from gap_rows(i, prefix, torch.from_numpy(values), every)


def _leakage_rows(i: int, rng: np.random.Generator, num_non_members: int) -> Iterator[Row]:
    area = float(rng.uniform(0.45, 0.6)) if num_non_members else math.nan
    for group in ("all", "protected", "clean"):
        yield Row(i, "mia_margin_auc", area, -1, group, area - 0.05, area + 0.05)
        yield Row(i, "mia_margin_balanced_accuracy", 0.52, -1, group)
        for rate in (0.01, 0.001):
            enough = num_non_members >= 3 / rate
            note = "" if enough else f"{num_non_members} non-members; {3 / rate:.0f} needed"
            metric = f"mia_margin_tpr_at_{rate:g}"
            yield Row(i, metric, 2 * rate, -1, group, rate, 4 * rate, enough, note)
    nan = float("nan")
    yield Row(i, "mia_shift_auc", nan, valid=False, note="one of the pools is empty")


def _signals(rng: np.random.Generator, sweep: Sweep) -> pd.DataFrame:
    count = 2 * sweep.num_non_members
    member = np.arange(count) % 2 == 0
    margin = rng.normal(size=count).round(2) + 0.3 * member
    return pd.DataFrame({"member": member, "audited": True, "margin": margin.astype("float32")})


def _save_samples(path: Path, rng: np.random.Generator, sweep: Sweep, fraction: float) -> None:
    clean = rng.integers(0, 256, (len(CLASSES), 3, 8, 8), dtype=np.uint8)
    noise = rng.integers(-8, 9, clean.shape) if fraction else np.zeros(clean.shape, int)
    np.savez(
        path,
        clean=clean,
        published=np.clip(clean + noise, 0, 255).astype(np.uint8),
        labels=np.arange(len(CLASSES)),
        class_names=np.array(CLASSES),
        client_classes=np.arange(sweep.num_clients * len(CLASSES)).reshape(-1, len(CLASSES)),
        protected=np.zeros(sweep.num_clients, int),
    )


def _experiment(settings: dict[str, Any], fraction: float, seed: int) -> dict[str, Any]:
    init = "pretrained" if "pretrained" in str(settings.get("model")) else "random"
    noise = {"class": "fl_sim.protections.random_noise.RandomNoise", "radius": 8 / 255}
    return {
        "class": "fl_sim.experiment.Experiment",
        "name": "toy",
        "client": {"class": "clients.sgd.SgdClient", "learning_rate": 0.05},
        "strategy": {"class": "strategies.fedavg.FedAvg"},
        "data": {"num_clients": 5, "num_samples": 400, "num_test": None, "held_out": 0.25},
        "partition": {"class": "fl_sim.data.partition.Dirichlet", "alpha": 0.5},
        "protection": noise if fraction else None,
        "layout": {"class": "fl_sim.data.layout.Layout", "fraction": fraction},
        "model": {"class": "fl_sim.experiment.Model", "backbone": init, "init": init},
        "participation": {"class": "x.Participation", "clients_per_round": None},
        "adversary": None,
        "failures": {"class": "x.FailurePolicy", "on_failure": "skip"},
        "rounds": 3,
        "seed": seed,
    }
