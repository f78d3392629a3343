"""Sweeps of two axes as one picture, and pages without sections that have nothing to say."""

import numpy as np
import pytest

from fl_sim.report.grid import build_grid
from fl_sim.report.heat_map import tabulate_means
from fl_sim.report.page import build_sections
from fl_sim.report.sections.accuracy_grid import draw_accuracy_grid
from fl_sim.report.sections.overview import build_overview
from fl_sim.report.tables import choose_headline_columns

TWO = {"noise": ["A", "B", "C"], "against": ["a", "b", "c", "d"]}


def test_two_axes_are_crossed(make_results, sweep):
    grid = build_grid(make_results(sweep(axes=TWO)))
    drawing = draw_accuracy_grid(grid)
    assert drawing is not None
    values = tabulate_means(grid, grid.finished, "against", "noise")
    assert values.shape == (4, 3)
    assert not np.isnan(values).any()
    last = grid.finished[-1]
    assert values[3, 2] == last.summary_values("accuracy")[0]


def test_few_values_and_pictures_of_their_own_are_not_crossed(make_results, sweep):
    for axes in (
        {"noise": ["A", "B", "C"]},
        {"noise": ["A", "B"], "against": ["a", "b", "c"]},
        {"noise": ["A", "B", "C"], "layout.fraction": [0.1, 0.5, 1.0]},
    ):
        assert draw_accuracy_grid(build_grid(make_results(sweep(axes=axes)))) is None


@pytest.mark.usefixtures("blank_figures")
def test_central_training_has_no_sections_of_clients(make_results, sweep):
    """One client, one round, no records held out."""
    grid = build_grid(make_results(sweep(axes=TWO, num_clients=1, rounds=1, num_non_members=0)))
    names = {section.name for section in build_sections(grid)}
    assert names.isdisjoint({"rounds", "clients", "classes", "leakage", "fairness", "privacy"})
    assert {"what", "key", "crossed", "cost"} <= names
    columns = {column.name for column in choose_headline_columns(grid)}
    assert columns.isdisjoint({"best", "AUC", "worst client", "lost"})
    assert "A_mix" in columns


@pytest.mark.usefixtures("blank_figures")
def test_a_federation_has_them(make_results, sweep):
    grid = build_grid(make_results(sweep()))
    names = {section.name for section in build_sections(grid)}
    assert {"rounds", "clients", "leakage", "fairness"} <= names


def test_parts_that_differ_between_settings_are_called_varied(make_results, sweep):
    grid = build_grid(make_results(sweep(axes=TWO)))
    for number, setting in enumerate(grid.finished):
        momentum = number / 10
        setting.experiment["client"] = {"class": "clients.sgd.SgdClient", "momentum": momentum}
    setting.experiment["strategy"] = {"class": "strategies.krum.Krum"}
    entries = dict(build_overview(grid).components[0].entries)
    assert "momentum differs" in entries["Local training"]
    assert entries["Strategy"] == "differs"
