"""Comparison of two runs, or two sweeps, by paired differences over their common seeds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from fl_sim.core.errors import RequestError
from fl_sim.results.pareto import CONFIDENCE, compute_interval
from fl_sim.results.quantities import RunNumbers
from fl_sim.results.tables import SUMMARY, Results, load_results

USUAL = ("accuracy", "fairness_worst_client", "mia_margin_auc", "cost.bytes", "cost.cpu_seconds")
COLUMNS = ("label", "quantity", "a", "b", "difference", "low", "high", "num_seeds", "verdict")
NO_DIFFERENCE = "no difference"
ONE_SEED = "one common seed, so no interval"


def compare(a: Results, b: Results, *names: str, confidence: float = CONFIDENCE) -> pd.DataFrame:
    """Return the differences of b to a in some quantities, with their intervals over seeds.

    Settings are paired by their label; two results of one setting each are paired as they are.
    Within a pair, runs are paired by seed, and seeds that one of them lacks are left out.

    The table has one row per pair and quantity: its `label`, the `quantity`, the means of `a` and
    `b`, their `difference`, the bounds `low` and `high` of Student's confidence interval of the
    mean of the paired differences, which are NaN for a single seed, `num_seeds`, and a `verdict`:
    `higher` or `lower` if the interval excludes 0, `no difference` if it includes 0.

    Args:
        a: Results to compare with.
        b: Results whose difference to `a` is returned.
        names: Quantities, such as `accuracy` or `worst_client`; by default accuracy, that of the
            worst client, the AUC of the membership attack, bytes and CPU seconds, as far as
            both have them.
        confidence: Level of the intervals.

    Raises:
        RequestError: For an unknown quantity, or results without a common setting and seed.
    """
    numbers = RunNumbers(a), RunNumbers(b)
    usual = [name for name in USUAL if all(name in each.names for each in numbers)]
    chosen = [tuple(each.find(name) for each in numbers) for name in names or usual]
    groups = [_group_by_label(results) for results in (a, b)]
    labels = [label for label in groups[0] if label in groups[1]]
    pairs = [(label, groups[0][label], groups[1][label]) for label in labels]
    if all(len(group) == 1 for group in groups):  # of one setting each
        (first,), (second,) = groups
        pairs = [(f"{second} against {first}", groups[0][first], groups[1][second])]
    rows = []
    for label, left, right in pairs:
        for full in chosen:
            values = [
                pd.Series(each.values(wanted)[cells.index].to_numpy(float), cells["seed"])
                for each, wanted, cells in zip(numbers, full, (left, right), strict=True)
            ]
            table = pd.concat(values, axis=1, join="inner", keys=["a", "b"]).dropna()
            if len(table):
                rows.append((label, full[0], *_compare_values(table, confidence)))
    if not rows:
        raise RequestError(f"{a.path} and {b.path} have no common setting and seed to compare")
    return pd.DataFrame(rows, columns=list(COLUMNS))


def load_run(path: str | Path) -> Results:
    """Return the results of an experiment's folder, or of one run in it, `EXPERIMENT/RUN_ID`.

    Raises:
        RequestError: If there are none.
    """
    folder = Path(path)
    if (folder / SUMMARY).exists() or not (folder.parent / SUMMARY).exists():
        return load_results(folder)
    results = load_results(folder.parent)
    cells = results.cells[results.cells["run_id"] == folder.name].reset_index(drop=True)
    if cells.empty:
        raise RequestError(f"{folder} is no run that {folder.parent / SUMMARY} lists as a cell")
    rows = results.rows[results.rows["run_id"] == folder.name].reset_index(drop=True)
    return replace(results, cells=cells.drop_duplicates("seed"), rows=rows)


def _group_by_label(results: Results) -> dict[str, pd.DataFrame]:
    """Return the finished cells of every setting, by its label without the seed."""
    finished = results.cells[results.cells["status"] == "finished"]
    pairs = zip(finished["label"], finished["seed"], strict=True)
    names = [
        str(label).removesuffix(f"seed {seed}").removesuffix(", ") or results.path.name
        for label, seed in pairs
    ]
    by_name = finished.groupby(np.array(names, dtype=object), sort=False)
    return {str(name): cells for name, cells in by_name}


def _compare_values(table: pd.DataFrame, confidence: float) -> tuple[float | int | str, ...]:
    differences = (table["b"] - table["a"]).to_numpy(float)
    low, high = compute_interval(differences, confidence)
    means = float(table["a"].mean()), float(table["b"].mean())
    mean, verdict = float(differences.mean()), judge_differences(differences, confidence)
    return (*means, mean, low, high, len(table), verdict)


def judge_differences(
    differences: Float[np.ndarray, " seeds"], confidence: float = CONFIDENCE
) -> str:
    """Return whether paired differences are `higher` or `lower` than 0, or `no difference`.

    They are no difference if Student's confidence interval of their mean over seeds includes 0. A
    single seed has no interval.

    >>> judge_differences(np.array([0.02, 0.03, 0.02])), judge_differences(np.array([0.1, -0.1]))
    ('higher', 'no difference')
    """
    low, high = compute_interval(differences, confidence)
    if low > 0 or high < 0:
        return "higher" if low > 0 else "lower"
    return ONE_SEED if len(differences) == 1 else NO_DIFFERENCE
