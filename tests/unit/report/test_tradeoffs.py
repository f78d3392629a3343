"""Fronts of settings: which are compared, over which seeds, and what is drawn and told."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fl_sim.core.errors import RequestError
from fl_sim.report.grid import build_grid
from fl_sim.report.sections.tradeoffs import build_tradeoffs
from fl_sim.report.tradeoffs import (
    DOMINATED,
    FRONT,
    OPEN,
    Point,
    collect_points,
    compare,
    describe_spread,
    draw_fronts,
    format_mean,
    group_by_axis,
    keep_compared_seeds,
    split_conditions,
    tabulate_points,
)
from fl_sim.results import Results
from fl_sim.results.quantities import Direction, RunNumbers, find_direction

Make = Callable[..., Results]
X, Y = "cost.bytes", "accuracy"
DIRECTIONS: dict[str, Direction] = {X: "lower", Y: "higher"}
AXES = {
    "model.tune": ["head", "full"],
    "strategy": ["FedAvg", "Krum"],
    "partition": ["Dirichlet(alpha=0.1)", "Iid"],
}


def point(bytes_: float, accuracies: dict[int, float], **axes: str) -> Point:
    """Return a point that sends equal bytes with each seed."""
    values = {X: dict.fromkeys(accuracies, bytes_), Y: accuracies}
    reasons = {name: "diverged" for name, known in values.items() if not known}
    return Point("toy", "a point", axes, "", values, reasons)


def sent(table: pd.DataFrame, factor: dict[str, float]) -> pd.DataFrame:
    """Multiply the bytes of a summary by a factor for each value of model.tune."""
    factors = table["settings.model.tune"].map(factor)
    names = ["cost.bytes_up", "cost.bytes_down"]
    return table.assign(**{name: table[name] * factors for name in names})


@pytest.fixture(scope="module")
def results(make_results: Make, sweep: Any) -> Results:
    made = make_results(sweep(axes=AXES, seeds=(0, 1, 2)))
    cells = sent(made.cells, {"head": 1.0, "full": 50.0})
    return Results(made.path, made.rows, cells, made.failures, made.complete)


def test_states_by_mean_and_beyond_the_spread() -> None:
    points = [
        point(1.0, {0: 0.50, 1: 0.52, 2: 0.51}),
        point(2.0, {0: 0.49, 1: 0.53, 2: 0.505}),  # costlier, and a little worse in the mean
        point(2.0, {0: 0.30, 1: 0.32, 2: 0.31}),  # worse by 0.2 with every seed
        point(3.0, {0: 0.60, 1: 0.61, 2: 0.62}),
    ]
    found = compare(points, (X, Y), DIRECTIONS)
    assert found.states == {0: FRONT, 1: OPEN, 2: DOMINATED, 3: FRONT}
    assert found.find_better(2) == [0, 1]
    assert "(seeds 0, 1, 2)" in describe_spread([found], 0.95)


def test_only_shared_seeds_are_compared() -> None:
    points = [point(1.0, {0: 0.5, 1: 0.6, 7: 9.9}), point(1.0, {0: 0.4, 1: 0.5, 2: 0.9})]
    found = compare(points, (X, Y), DIRECTIONS)
    assert found.seeds == (0, 1)
    assert found.mean(0, Y) == pytest.approx(0.55)
    assert found.states == {0: FRONT, 1: DOMINATED}
    shown = keep_compared_seeds(points, [found])
    assert [each.values[Y] for each in shown] == [{0: 0.5, 1: 0.6}, {0: 0.4, 1: 0.5}]
    assert tabulate_points(shown, [X, Y], [found])[Y].tolist() == pytest.approx([0.55, 0.45])


def test_without_two_shared_seeds_means_are_compared_and_it_is_told() -> None:
    points = [point(1.0, {0: 0.5, 1: 0.6}), point(1.0, {2: 0.54})]
    found = compare(points, (X, Y), DIRECTIONS)
    assert (found.seeds, found.states) == ((), {0: FRONT, 1: DOMINATED})
    assert math.isnan(found.interval(1, Y, 0.95)[0])
    assert "no spread is known" in describe_spread([found], 0.95)


def test_a_point_of_one_seed_changes_nothing_for_pairs_that_share_seeds() -> None:
    noisy = [point(1.0, {0: 0.5, 1: 0.6}), point(1.0, {0: 0.52, 1: 0.52})]
    assert compare(noisy, (X, Y), DIRECTIONS).states == {0: FRONT, 1: OPEN}
    found = compare([*noisy, point(1.0, {5: 0.54})], (X, Y), DIRECTIONS)
    assert found.states == {0: FRONT, 1: DOMINATED, 2: DOMINATED}
    assert found.find_better(1) == [2]  # by the means, not by point 0
    assert "2 of 3 pairs share fewer than two seeds" in describe_spread([found], 0.95)


def test_a_point_without_a_number_is_left_out_with_the_reason() -> None:
    points = [point(1.0, {0: 0.5, 1: 0.6}), point(1.0, {})]
    found = compare(points, (X, Y), DIRECTIONS)
    assert found.places == (0,)
    assert found.left_out == {1: "MB up and down: diverged"}
    table = tabulate_points(points, [X, Y], [found])
    assert table["accuracy_state"].tolist() == [FRONT, "MB up and down: diverged"]
    assert format_mean(points[1], Y) == "-"


def test_settings_of_other_conditions_are_not_compared(results: Results) -> None:
    numbers = [RunNumbers(results)]
    points, names = collect_points(numbers, ["bytes", "accuracy"])
    assert names == [X, Y]
    assert {c: len(places) for c, places in split_conditions(points).items()} == {
        "Dirichlet(alpha=0.1)": 4,
        "Iid": 4,
    }
    across, _ = collect_points(numbers, [X], across=["partition"])
    assert len(split_conditions(across)) == 1
    within, _ = collect_points(numbers, [X], within=["tune"])
    assert len(split_conditions(within)) == 4
    with pytest.raises(RequestError, match=r"no axis 'rule'.*there are model\.tune, strategy"):
        collect_points(numbers, [X], within=["rule"])


def test_two_datasets_are_two_conditions(results: Results) -> None:
    other = Results(
        results.path,
        results.rows,
        results.cells.assign(dataset="digits"),
        results.failures,
        results.complete,
    )
    points, _ = collect_points([RunNumbers(results), RunNumbers(other)], [X])
    assert len(split_conditions(points)) == 4
    assert points[0].label.startswith("toy · ")


def test_experiments_with_another_attack_domain_or_evaluation_are_not_compared(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: dict[str, Any] = {"data": {"dataset": "digits"}, "adversary": None, "evaluation": {}}
    attacked = {**plain, "adversary": {"class": "Adversary", "client": {"class": "a.SignFlip"}}}
    shifted = {**plain, "domains": {"class": "DomainShift"}}
    fog = {**plain, "evaluation": {"every": 2, "corruptions": {"severity": 5}}}
    often = {**plain, "evaluation": {"every": 2, "alone": {"class": "c.SgdClient"}}}
    stored = [plain, attacked, shifted, fog, often]
    own = property(lambda self: stored[int(self.cells["place"].iloc[0])])
    monkeypatch.setattr("fl_sim.report.grid.Setting.experiment", own)
    tables = [results.cells.iloc[:3].assign(place=place) for place in range(len(stored))]
    rest = (results.failures, results.complete)
    numbers = [RunNumbers(Results(results.path, results.rows, c, *rest)) for c in tables]
    points, _ = collect_points(numbers, [X, Y])
    assert list(split_conditions(points).values()) == [[0, 4], [1], [2], [3]]
    assert "adversary: SignFlip" in points[1].condition
    assert "domains: DomainShift" in points[2].condition
    points, _ = collect_points(numbers, [X, Y], across=["adversary", "domains"])
    assert list(split_conditions(points).values()) == [[0, 1, 2, 4], [3]]
    points, _ = collect_points(numbers, [X, Y], within=["adversary"], across=["evaluation"])
    assert list(split_conditions(points).values()) == [[0, 3, 4], [1], [2]]


def test_values_are_those_of_the_summary_and_of_the_last_rows(results: Results) -> None:
    points, names = collect_points([RunNumbers(results)], ["accuracy", "auc", "worst_client"])
    assert names == ["accuracy", "mia_margin_auc", "fairness_worst_client"]
    for own in points:
        cells = results.cells
        for axis, word in own.settings.items():
            cells = cells[cells[f"settings.{axis}"] == word]
        for column, name in (("accuracy", names[0]), ("leakage.auc", names[1])):
            expected = dict(zip(cells["seed"], cells[column], strict=True))
            assert own.values[name] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("fairness.worst_client", "fairness_worst_client"),
        ("leakage.auc", "mia_margin_auc"),
        ("tpr", "mia_margin_tpr_at_0.01"),
        ("cpu_seconds", "cost.cpu_seconds"),
        ("utility_gap", "protection.utility_gap"),
        ("jain", "fairness_jain"),
        ("mia_margin_auc.clean", "mia_margin_auc.clean"),
    ],
)
def test_names_of_columns_and_metrics_are_found(results: Results, name: str, full: str) -> None:
    assert RunNumbers(results).find(name) == full


def test_an_unknown_name_is_refused_with_those_that_are_there(results: Results) -> None:
    with pytest.raises(RequestError, match=r"no quantity 'acuracy' .*did you mean 'accuracy'.*"):
        RunNumbers(results).find("acuracy")
    with pytest.raises(
        RequestError, match=r"no quantity 'zzzz' .*; there are accuracy, "
    ) as refused:
        RunNumbers(results).find("zzzz")
    assert ".clean" not in str(refused.value)


def test_numbers_that_should_not_be_read_are_missing(make_results: Make, sweep: Any) -> None:
    numbers = RunNumbers(make_results(sweep(num_non_members=20)))
    assert numbers.values("mia_margin_tpr_at_0.01").isna().all()
    reason = numbers.reason("mia_margin_tpr_at_0.01", numbers.results.cells.index)
    assert reason == "20 non-members; 300 needed"
    assert numbers.reason("accuracy", numbers.results.cells.index) == "not measured"


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("accuracy", "higher"),
        ("loss", "lower"),
        ("cost.cpu_seconds", "lower"),
        ("mia_margin_auc", "lower"),
        ("attack_success", "lower"),
        ("fairness_spread", "lower"),
        ("fairness_leakage_worst_client", "lower"),
        ("corruption_accuracy.fog", "higher"),
        ("adversarial_drop", "lower"),
        ("calibration_error", "lower"),
        ("epsilon.clients", "lower"),
        ("group_share.clean", None),
        ("protection.utility_gap", None),
    ],
)
def test_directions(name: str, direction: Direction | None) -> None:
    assert find_direction(name) == direction
    assert find_direction(name, {name: "higher"}) == "higher"


def test_the_section_has_a_figure_and_a_table_for_each_cost(results: Results) -> None:
    section = build_tradeoffs(build_grid(results))
    assert section is not None
    names = [part.name for part in section.components if part.kind == "drawing"]
    assert names == ["pareto_bytes", "pareto_cpu_seconds"]
    table = section.components[1]
    assert table.kind == "table"
    assert table.columns[-3:] == ("accuracy, %", "worst client, %", "membership AUC")
    assert len(table.rows) == 8
    states = {cell.extra.split(" by ")[0] for row in table.rows for cell in row[-3:]}
    assert FRONT in states
    assert states <= {FRONT, OPEN, DOMINATED}


def test_equal_bytes_are_no_trade_off(make_results: Make, sweep: Any) -> None:
    assert build_tradeoffs(build_grid(make_results(sweep(axes={"strategy": ["a", "b"]})))) is None
    assert build_tradeoffs(build_grid(make_results(sweep()))) is None


def test_points_are_coloured_by_the_model_and_many_by_nothing() -> None:
    points = [
        point(float(i), {0: 0.1 * i}, strategy=f"s{i % 2}", **{"model.tune": f"t{i % 3}"})
        for i in range(1, 9)
    ]
    assert group_by_axis(points)[0] == "tune"
    many = [own._replace(settings={"rounds": str(i)}) for i, own in enumerate(points)]
    assert group_by_axis(many) == ("", [])
    others = [own._replace(experiment=f"e{i % 2}") for i, own in enumerate(points)]
    assert group_by_axis(others)[0] == "experiment"
    rng = np.random.default_rng(0)
    noisy = [point(10.0**i, {s: rng.random() for s in range(3)}) for i in range(4)]
    comparison = compare(noisy, (X, Y), DIRECTIONS)
    drawing = draw_fronts("f", noisy, [comparison], DIRECTIONS, "words.", key=True)
    assert drawing.svg == draw_fronts("f", noisy, [comparison], DIRECTIONS, "words.", key=True).svg
