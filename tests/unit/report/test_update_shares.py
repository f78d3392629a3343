import numpy as np
import pytest

from fl_sim.report.grid import build_grid
from fl_sim.report.page import build_sections
from fl_sim.report.sections.update_shares import _scale_shares, draw_shares_over_rounds


def test_shares_are_drawn_beside_who_attacked(make_results, sweep):
    grid = build_grid(make_results(sweep(axes={"strategy": ["FedAvg", "Krum"]}, seeds=(3, 4))))
    first, second = draw_shares_over_rounds(grid), draw_shares_over_rounds(grid)
    assert first.svg == second.svg
    assert "seed 3" in first.caption


@pytest.mark.usefixtures("blank_figures")
def test_shares_are_on_the_page(make_results, sweep):
    grid = build_grid(make_results(sweep()))
    assert "exclusion" in [section.name for section in build_sections(grid)]


def test_what_is_drawn_is_the_share_after_shortening(make_results, sweep):
    grid = build_grid(make_results(sweep(rounds=2)))
    rows = _scale_shares(grid.finished[0])
    table = rows.pivot_table(index="client", columns="round", values="value").to_numpy()
    expected = np.full((5, 2), 0.25)
    expected[1, 1], expected[2] = 0.0, 0.125
    assert table.tolist() == expected.tolist()


def test_a_hundred_clients_and_one_round_can_be_drawn(make_results, sweep):
    for clients, rounds in ((100, 12), (2, 2)):
        assert draw_shares_over_rounds(
            build_grid(make_results(sweep(num_clients=clients, rounds=rounds)))
        )


def test_no_figure_without_exclusions_and_attackers(make_results, sweep):
    grid = build_grid(make_results(sweep(rounds=1)))  # the attack begins in round 2
    assert draw_shares_over_rounds(grid) is None
    failed = build_grid(make_results(sweep(broken=lambda settings, seed: True)))
    assert draw_shares_over_rounds(failed) is None
