"""Two runs are compared by the differences of their common seeds."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fl_sim.core.errors import RequestError
from fl_sim.results import Results, compare, make_rows_table


def make(name: str, accuracy: dict[int, float], labels: tuple[str, ...] = ("",)) -> Results:
    cells = [
        {
            "run_id": f"{name}{label}",
            "seed": seed,
            "status": "finished",
            "label": f"{label}, seed {seed}" if label else f"seed {seed}",
            "accuracy": value,
        }
        for label in labels
        for seed, value in accuracy.items()
    ]
    rows = make_rows_table([]).assign(run_id="", seed=0, is_control=False)
    return Results(Path(name), rows, pd.DataFrame(cells), pd.DataFrame(), complete=True)


def test_differences_are_paired_by_seed() -> None:
    """Checked against scipy's paired t-test."""
    a, b = {0: 0.5, 1: 0.7, 2: 0.6}, {2: 0.66, 1: 0.74, 0: 0.55}
    (row,) = compare(make("a", a), make("b", b), "accuracy").itertuples()
    paired = stats.ttest_rel([b[s] for s in a], [a[s] for s in a])
    low, high = paired.confidence_interval(0.95)
    assert (row.low, row.high) == pytest.approx((low, high))
    assert row.difference == pytest.approx(np.mean([0.05, 0.04, 0.06]))
    assert (row.num_seeds, row.verdict) == (3, "higher")
    assert row.label == "b against a"


def test_a_difference_within_its_interval_is_none() -> None:
    (row,) = compare(make("a", {0: 0.5, 1: 0.6}), make("b", {0: 0.6, 1: 0.5})).itertuples()
    assert row.verdict == "no difference"


def test_one_common_seed_has_no_interval() -> None:
    (row,) = compare(make("a", {0: 0.5, 1: 0.6}), make("b", {1: 0.9, 2: 0.5})).itertuples()
    assert row.num_seeds == 1
    assert math.isnan(row.low)
    assert row.verdict == "one common seed, so no interval"


def test_a_folder_may_have_the_name_of_a_column() -> None:
    (row,) = compare(make("seed", {0: 0.5, 1: 0.6}), make("b", {0: 0.7})).itertuples()
    assert (row.label, row.num_seeds) == ("b against seed", 1)


def test_settings_are_paired_by_label() -> None:
    a = make("a", {0: 0.5}, ("rule FedAvg", "rule Krum"))
    b = make("b", {0: 0.6}, ("rule Krum", "rule Median"))
    assert list(compare(a, b)["label"]) == ["rule Krum"]


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(RequestError, match="no common setting and seed"):
        compare(make("a", {0: 0.5}), make("b", {1: 0.5}))
    with pytest.raises(RequestError, match="no quantity"):
        compare(make("a", {0: 0.5}), make("b", {0: 0.5}), "acuracy")


def test_results_print_as_a_short_summary() -> None:
    results = replace(make("runs/a", {0: 0.5, 1: 0.75}), question="Does it work?")
    lines = repr(results).splitlines()
    assert lines[:3] == [
        "a: 2 of 2 runs finished, in runs/a",
        "Does it work?",
        "accuracy: 50.0 % (seed 0) to 75.0 % (seed 1)",
    ]
    assert len(lines) == 4
