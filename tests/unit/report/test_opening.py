"""The answer at the top of the page is made of the numbers below it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fl_sim.report.grid import build_grid
from fl_sim.report.sections import answer_figure, opening
from fl_sim.report.verdicts import is_chance
from fl_sim.results import Results

Make = Callable[..., Results]


def with_numbers(results: Results, name: str, values: list[float]) -> Any:
    return build_grid(replace(results, cells=results.cells.assign(**{name: values})))


def test_protection_falls_from_the_lowest_to_the_highest_share(
    make_results: Make, sweep: Any
) -> None:
    results = make_results(sweep({"layout.fraction": [0.0, 0.5, 1.0]}))
    grid = with_numbers(results, "accuracy", [0.8, 0.7, 0.3])
    sentence = "With every image protected, accuracy falls from 80.0 % to 30.0 %."
    assert opening.describe_protection(grid) == sentence


def test_shares_that_are_not_the_whole_are_named(make_results: Make, sweep: Any) -> None:
    results = make_results(sweep({"layout.fraction": [0.25, 0.5]}))
    grid = with_numbers(results, "accuracy", [0.4, 0.5])
    sentence = "With 50 % protected in place of 25 %, accuracy rises from 40.0 % to 50.0 %."
    assert opening.describe_protection(grid) == sentence


def test_the_largest_and_the_smallest_fall_are_told(make_results: Make, sweep: Any) -> None:
    axes = {"strategy": ["FedAvg", "TrimmedMean(num_byzantine=2)"], "layout.fraction": [0.0, 1.0]}
    grid = with_numbers(make_results(sweep(axes)), "accuracy", [0.8, 0.7, 0.8, 0.2])
    assert opening.describe_protection(grid) == (
        "With every image protected, accuracy falls from 80.0 % to 20.0 % (TrimmedMean), and "
        "from 80.0 % to 70.0 % (FedAvg)."
    )


def test_settings_without_the_largest_share_are_not_told_as_if_they_had_it(
    make_results: Make, sweep: Any
) -> None:
    axes = {"strategy": ["FedAvg", "TrimmedMean(num_byzantine=2)"], "layout.fraction": [0, 0.5, 1]}
    results = make_results(sweep(axes))
    failed = results.cells["status"].where(results.cells.index != 5, "failed")
    results = replace(results, cells=results.cells.assign(status=failed))
    grid = with_numbers(results, "accuracy", [0.8, 0.7, 0.6, 0.8, 0.1, float("nan")])
    sentence = "With every image protected, accuracy falls from 80.0 % to 60.0 % (FedAvg)."
    assert opening.describe_protection(grid) == sentence


@pytest.mark.parametrize("missing", [1, 2])
def test_no_number_is_made_up(make_results: Make, sweep: Any, missing: int) -> None:
    results = make_results(sweep({"layout.fraction": [0.0, 1.0]}))
    numbers = [0.5, float("nan")] if missing == 1 else [float("nan")] * 2
    grid = with_numbers(results, "accuracy", numbers)
    assert opening.describe_protection(grid) == ""
    assert "nan" not in " ".join(opening.build_opening(grid).paragraphs)


def test_one_seed_is_no_spread(make_results: Make, sweep: Any) -> None:
    axes = {"client.epochs": [1, 2]}
    one, two = (build_grid(make_results(sweep(axes, seeds))) for seeds in ((0,), (0, 1)))
    assert "Only one seed" in opening.describe_doubt(one)
    assert opening.describe_doubt(two) == ""


def test_chance_is_read_off_the_intervals(make_results: Make, sweep: Any) -> None:
    results = make_results(sweep(num_non_members=120))
    areas = results.rows["metric"] == "mia_margin_auc"
    for low, high, chance in ((0.45, 0.55, True), (0.52, 0.6, False)):
        rows = results.rows.assign(
            value=results.rows["value"].where(~areas, (low + high) / 2),
            low=results.rows["low"].where(~areas, low),
            high=results.rows["high"].where(~areas, high),
        )
        (setting,) = build_grid(replace(results, rows=rows)).settings
        assert is_chance(setting, "mia_margin_auc") is chance


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({}, "after every round"),
        ({"layout.fraction": [0.0, 1.0]}, "against the share"),
        ({"client.epochs": [1, 2]}, "one dot per seed"),
        ({"client.epochs": [1, 2, 3], "rounds": [1, 2, 3]}, "mean over seeds"),
        ({"client.epochs": list(range(7)), "model": ["a", "b"]}, "Pareto front"),
    ],
)
@pytest.mark.usefixtures("blank_figures")
def test_the_figure_fits_what_was_varied(
    make_results: Make, sweep: Any, axes: dict[str, Any], words: str
) -> None:
    drawing = answer_figure.draw_answer(build_grid(make_results(sweep(axes))))
    assert drawing is not None
    assert words in drawing.caption


def test_nothing_finished_has_no_figure(make_results: Make, sweep: Any) -> None:
    section = opening.build_opening(build_grid(make_results(sweep(broken=lambda *_: True))))
    assert section.components == ()


def test_names_of_many_axes_have_those_that_matter_and_differ(
    make_results: Make, sweep: Any
) -> None:
    axes = {"client.epochs": [1, 2], "model": ["A", "B"], "x.rate": [1, 2], "y.size": [1, 2]}
    results = make_results(sweep(axes))
    words = results.cells
    numbers = 0.5 + 0.3 * (words["settings.model"] == "B") + 0.1 * (words["settings.x.rate"] == 2)
    numbers += 0.05 * (words["settings.y.size"] == 2)
    grid = with_numbers(results, "accuracy", list(numbers))
    settings = {tuple(setting.values.values()): setting for setting in grid.settings}
    best, other = settings["1", "B", "2", "2"], settings["2", "B", "2", "2"]
    assert grid.name_settings("accuracy", best) == ["B · rate 2 · size 2"]
    assert grid.name_settings("accuracy", best, other) == [
        "epochs 1 · B · rate 2 · size 2",
        "epochs 2 · B · rate 2 · size 2",
    ]


def test_a_cost_that_cannot_be_told_from_nothing_is_no_difference(
    make_results: Make, sweep: Any
) -> None:
    results = make_results(sweep({"strategy": ["FedAvg"]}, seeds=(0, 1)))
    for lost, doubt in (([0.03, -0.01], ", which is no difference."), ([0.02, 0.02], ".")):
        sentence = opening.describe_attack(with_numbers(results, "attack.accuracy_lost", lost))
        cost = f"{100 * sum(lost) / 2:.1f}"
        assert sentence == f"The attackers cost {cost} points of accuracy{doubt}"
