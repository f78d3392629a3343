"""Numbers that are no different from chance, from 0 or from the highest, and their marks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp, ttest_rel

from fl_sim.report import tables
from fl_sim.report.grid import Grid, build_grid
from fl_sim.report.sections import key_numbers
from fl_sim.report.verdicts import TIE, find_ties, includes_chance, judge_change
from fl_sim.results import Results

Make = Callable[..., Results]
ACCURACIES = {  # by epochs, of three seeds
    1: (0.70, 0.72, 0.71),
    2: (0.74, 0.71, 0.72),
    3: (0.60, 0.61, 0.60),
}


@pytest.fixture
def grid(make_results: Make, sweep: Any) -> Grid:
    results = make_results(sweep({"client.epochs": list(ACCURACIES)}, (0, 1, 2)))
    values = [value for own in ACCURACIES.values() for value in own]
    return build_grid(replace(results, cells=results.cells.assign(accuracy=values)))


def test_ties_with_the_highest_are_those_of_a_paired_t_test(grid: Grid) -> None:
    best = max(ACCURACIES.values(), key=sum)
    tied = [
        own is best or ttest_rel(own, best).pvalue >= 0.05  # the interval includes 0
        for own in ACCURACIES.values()
    ]
    found = find_ties(grid, "accuracy")
    assert [setting in found for setting in grid.settings] == tied == [True, True, False]


def test_seeds_that_only_one_setting_has_are_not_compared(grid: Grid) -> None:
    cells = grid.results.cells
    lost = cells["accuracy"].where(~((cells["settings.client.epochs"] == 1) & (cells["seed"] > 0)))
    own = build_grid(replace(grid.results, cells=cells.assign(accuracy=lost)))
    assert find_ties(own, "accuracy") == []


@pytest.mark.parametrize("values", [(0.01, -0.02, 0.02), (0.01, 0.02, 0.015), (-0.3, 0.1)])
def test_a_difference_is_none_where_a_t_test_finds_none(values: tuple[float, ...]) -> None:
    assert bool(judge_change(values)) == (ttest_1samp(values, 0).pvalue >= 0.05)


def test_a_single_seed_and_no_change_have_no_verdict() -> None:
    assert judge_change([0.1]) == judge_change([0.0, 0.0]) == judge_change([np.nan, 0.1]) == ""


def test_key_numbers_have_intervals_and_a_legend(grid: Grid) -> None:
    section = key_numbers.build_key_numbers(grid)
    (table,) = section.components
    assert table.kind == "table"
    place = table.columns.index("A_mix, %")
    assert [row[place].verdict for row in table.rows] == [TIE, TIE, ""]
    assert {row[place].extra for row in table.rows} == {"[30.0, 90.0]"}  # bounds of the rows
    assert TIE in table.verdicts
    assert any("Clopper and Pearson" in text and "± 30.0" in text for text in section.paragraphs)


def test_the_terminal_marks_them_and_says_so(grid: Grid) -> None:
    table = tables.build_summary_table(grid.results)
    (mix,) = (own for own in table.columns if str(own.header).startswith("A_mix"))
    assert [str(cell)[0] == TIE for cell in mix.cells] == [True, True, False]
    assert f"{TIE}: no difference to the highest" in str(table.caption)


def test_means_over_seeds_are_told_from_chance_by_both_intervals() -> None:
    """By definition; guessing is told from chance in at most 5 % of cases, whatever its spread."""
    rng, width, told = np.random.default_rng(0), 0.04, {}
    for area, spread in ((0.5, 0.0), (0.5, 0.02), (0.56, 0.0)):
        drawn = rng.normal(area, np.hypot(width / norm.ppf(0.975), spread), (500, 4))
        own = np.abs(drawn.mean(1) - 0.5) > width / 2  # of four seeds
        expected = own & (ttest_1samp(drawn, 0.5, axis=1).pvalue < 0.05)
        found = [
            not includes_chance(a, [v - width for v in a], [v + width for v in a])
            for a in drawn.tolist()
        ]
        assert found == expected.tolist()
        told[area, spread] = np.mean(found)
    assert max(told[0.5, 0.0], told[0.5, 0.02]) < 0.08  # three standard errors above 0.05
    assert told[0.56, 0.0] > 0.9


def test_chance_is_read_off_the_side_of_the_interval_that_is_towards_it() -> None:
    assert includes_chance([0.55], [0.49], [0.56])
    assert not includes_chance([0.55], [0.51], [0.9])
    assert includes_chance([0.45], [0.44], [0.51])
    assert not includes_chance([0.45], [0.1], [0.49])
    unknown = [0.6, float("nan")], [0.55, float("nan")], [0.65, float("nan")]
    assert not includes_chance(*unknown)
    assert not includes_chance([], [], [])
