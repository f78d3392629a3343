"""The tables of columns in docs/frames.md, and the descriptions against real frames."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from pandas.api import types

from clients.sign_flip import SignFlipClient
from fl_sim import Adversary, Experiment, Protects, run
from fl_sim.audit.session import audit
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.report.frames import fill
from fl_sim.results import Results, compare, run_folder
from fl_sim.results.columns import TABLES, find_column, find_undescribed

PAGE = Path(__file__).parents[3] / "docs/frames.md"
CHECKS: dict[str, Callable[[pd.Series], bool]] = {
    "int": types.is_integer_dtype,
    "float": lambda values: types.is_numeric_dtype(pd.to_numeric(values)),  # None: not defined
    "bool": types.is_bool_dtype,
    "text": lambda values: values.dropna().map(lambda value: isinstance(value, str)).all(),
    "text or number": lambda values: (
        values.dropna().map(lambda v: isinstance(v, str | float)).all()
    ),
}


@pytest.fixture(scope="module")
def results(
    experiment: Callable[..., Experiment], tmp_path_factory: pytest.TempPathFactory
) -> Results:
    """Return the results of a run with protection and an attacker."""
    own = experiment(
        rounds=1,
        protection=RandomNoise(),
        layout=(Protects(clients=(0, 1)),),
        adversary=Adversary(SignFlipClient(), clients=(3,)),
    )
    return run(own, seeds=[0], out=tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def frames(results: Results) -> dict[str, pd.DataFrame]:
    folder = run_folder(results.path, str(results.cells.run_id[0]), 0)
    findings = audit(folder, tier=0)
    return {
        "cells": results.cells,
        "rows": results.rows,
        "failures": results.failures,
        "compare": compare(results, results),
        "signals": pd.read_parquet(folder / "signals.parquet"),
        "audit": findings,
        "audit_records": pd.read_parquet(folder / "audit_records.parquet"),
    }


def test_the_page_is_generated_from_the_descriptions() -> None:
    assert PAGE.read_text("utf-8") == fill(PAGE.read_text("utf-8")), "run `make report`"


def test_every_column_of_every_frame_is_described_with_its_type_and_range(
    frames: dict[str, pd.DataFrame],
) -> None:
    for table, frame in frames.items():
        assert find_undescribed(table, frame.columns) == [], table
        for name in frame.columns:
            column = find_column(table, name)
            assert column is not None
            if column.kind in CHECKS and len(frame):
                assert CHECKS[column.kind](frame[name]), f"{table}.{name}: {column.kind}"
            if bounds := re.fullmatch(r"(-?\d+) to (\d+)", column.values):
                low, high = map(float, bounds.groups())
                values = pd.to_numeric(frame[name]).dropna()
                assert values.between(low, high).all(), f"{table}.{name}"


def test_tables_without_placeholders_have_exactly_the_described_columns(
    frames: dict[str, pd.DataFrame],
) -> None:
    for table in ("failures", "compare", "signals", "audit", "audit_records"):
        assert list(frames[table].columns) == [c.name for c in TABLES[table].columns], table
