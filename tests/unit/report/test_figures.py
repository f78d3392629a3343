import re

import numpy as np
import pandas as pd
import pytest

from fl_sim.report.grid import build_grid
from fl_sim.report.panels import choose_line_axis, group_panels
from fl_sim.report.sections.accuracy_by_fraction import draw_accuracy_against_fraction
from fl_sim.report.sections.accuracy_over_rounds import draw_accuracy_over_rounds
from fl_sim.report.sections.client_accuracy import draw_accuracy_by_client
from fl_sim.report.sections.client_classes import draw_classes_by_client
from fl_sim.report.sections.images import amplify_noise, draw_image_sheets
from fl_sim.report.sections.leakage import compute_roc, draw_membership_roc

FRACTIONS = {"layout.fraction": [0.0, 0.5], "strategy": ["FedAvg", "Krum"]}


@pytest.fixture(scope="module")
def grid(make_results, sweep):
    return build_grid(make_results(sweep(axes=FRACTIONS, seeds=(0, 1))))


def test_the_same_results_give_the_same_bytes(grid):
    for draw in (draw_accuracy_over_rounds, draw_membership_roc, draw_classes_by_client):
        first, second = draw(grid), draw(grid)
        assert first.svg == second.svg
        assert first.render("png") == second.render("png")


def test_no_two_figures_share_an_id(grid):
    drawings = [
        draw_accuracy_over_rounds(grid),
        draw_accuracy_against_fraction(grid),
        *draw_image_sheets(grid),
    ]
    ids = [name for own in drawings for name in re.findall(r'\bid="([^"]+)"', own.inline)]
    assert len(ids) == len(set(ids)) > 0


def test_links_inside_a_figure_lead_somewhere(grid):
    drawing = draw_accuracy_over_rounds(grid)
    ids = set(re.findall(r'\bid="([^"]+)"', drawing.inline))
    links = re.findall(r'(?:href="|url\()#([^")]+)', drawing.inline)
    assert links
    assert set(links) <= ids


def test_lines_are_fractions_and_panels_the_rest(grid):
    assert choose_line_axis(grid) == "layout.fraction"
    panels = group_panels(grid, "layout.fraction")
    assert [panel.title for panel in panels] == ["FedAvg", "Krum"]
    assert [len(panel.settings) for panel in panels] == [2, 2]


def test_nothing_to_draw_is_no_figure(make_results, sweep):
    grid = build_grid(make_results(sweep(broken=lambda settings, seed: True)))
    draws = (draw_accuracy_over_rounds, draw_accuracy_against_fraction, draw_accuracy_by_client)
    assert [draw(grid) for draw in (*draws, draw_classes_by_client, draw_membership_roc)] == [
        None
    ] * 5
    assert draw_image_sheets(grid) == []


def test_no_noise_no_sheet_and_no_fraction_no_curve(make_results, sweep):
    grid = build_grid(make_results(sweep()))
    assert draw_image_sheets(grid) == []
    assert draw_accuracy_against_fraction(grid) is None
    assert draw_accuracy_over_rounds(grid) is not None


def test_a_hundred_clients_can_be_drawn(make_results, sweep):
    grid = build_grid(make_results(sweep(num_clients=100)))
    assert draw_accuracy_by_client(grid) is not None
    assert draw_classes_by_client(grid) is not None


def test_noise_is_ten_times_as_strong_around_grey():
    clean = np.array([[[[100, 100, 100]]]], np.uint8)
    noisy = np.array([[[[100, 103, 80]]]], np.uint8)
    assert amplify_noise(clean, noisy).ravel().tolist() == [128, 158, 0]


def test_curve_agrees_with_its_definition():
    rng = np.random.default_rng(0)
    member = rng.random(80) < 0.5
    signals = pd.DataFrame(
        {"member": member, "audited": rng.random(80) < 0.8, "margin": rng.normal(size=80).round(1)}
    )
    curve = compute_roc(signals)
    own = signals[signals["audited"]]
    inside = own.loc[own["member"], "margin"].to_numpy()
    outside = own.loc[~own["member"], "margin"].to_numpy()
    thresholds = [np.inf, *sorted(set(own["margin"]), reverse=True)]
    np.testing.assert_allclose(
        curve.true_positive_rates, [(inside >= t).mean() for t in thresholds]
    )
    np.testing.assert_allclose(
        curve.false_positive_rates, [(outside >= t).mean() for t in thresholds]
    )
    assert curve.trusted_from == 3 / len(outside)


def test_without_non_members_there_is_no_curve():
    signals = pd.DataFrame({"member": [True], "audited": [True], "margin": [0.5]})
    assert compute_roc(signals) is None
