import re

import pytest
import torch

from fl_sim.metrics.fairness import variance
from fl_sim.report import page
from fl_sim.report.grid import build_grid
from fl_sim.report.sections import benefit, fairness, leakage_fairness
from fl_sim.report.sections.overview import describe_parts
from fl_sim.report.sections.robustness import describe_measures

FRACTIONS = {"layout.fraction": [0.0, 0.5, 1.0]}
ALL_GROUPS = ("clean", "protected", "attacker", "mixed")


@pytest.fixture(scope="module")
def grid(make_results, sweep):
    return build_grid(make_results(sweep(axes=FRACTIONS, seeds=(0, 1), groups=ALL_GROUPS)))


def columns(section, caption):
    (made,) = [p for p in section.components if getattr(p, "caption", "") == caption]
    return made.columns


def test_the_statistics_of_the_papers_are_there(grid):
    names = columns(fairness.build_fairness(grid), "Fairness over clients")
    assert {"variance, %²", "CVaR 10 %, %", "parity gap, points", "Jain"} <= set(names)


def test_groups_have_a_table_where_there_are_several(grid, make_results, sweep):
    names = columns(fairness.build_fairness(grid), "Groups of clients")
    assert {"clean, %", "protected, %", "attackers, %", "protected gap, points"} <= set(names)
    alike = build_grid(make_results(sweep()))
    captions = [getattr(part, "caption", "") for part in fairness.build_fairness(alike).components]
    assert "Groups of clients" not in captions


def test_privacy_is_compared_between_groups(grid):
    names = columns(leakage_fairness.build_leakage_fairness(grid), "Leakage over clients")
    assert {"mean AUC", "excess spread", "worst client"} <= set(names)
    names = columns(leakage_fairness.build_leakage_fairness(grid), "Leakage by group of clients")
    assert {"clean", "protected", "attackers", "protected gap", "attacker gap"} <= set(names)


def test_columns_that_no_setting_has_are_left_out(make_results, sweep):
    some = build_grid(make_results(sweep(groups=("clean", "protected"))))
    names = columns(fairness.build_fairness(some), "Groups of clients")
    assert {"clean, %", "protected, %"} <= set(names)
    assert not {"mixed, %", "attackers, %", "attacker gap, points"} & set(names)


@pytest.mark.usefixtures("blank_figures")
def test_gains_are_shown_where_they_were_measured(make_results, sweep, grid):
    assert benefit.build_benefit(grid) is None
    results = make_results(sweep(benefit=True))
    section = benefit.build_benefit(build_grid(results))
    assert columns(section, "Gains")[1:] == ("mean gain, points", "correlation with alone")
    text = page.write_page(results).read_text()
    assert "+12.5" in text
    assert "<li>all give alike, or all get alike</li>" in text


@pytest.mark.usefixtures("blank_figures")
def test_numbers_in_the_table_are_those_of_the_rows(make_results, sweep):
    results = make_results(sweep())
    rows = results.rows
    last = rows[(rows["round"] == 3) & (rows["metric"] == "client_accuracy")]
    expected = variance(torch.from_numpy(last["value"].to_numpy(copy=True)))
    assert re.search(rf"<td>\s*{expected:.1f}\s*</td>", page.write_page(results).read_text())


def test_every_client_of_every_seed_is_drawn(grid):
    for setting in grid.finished:
        assert len(setting.client_rows("client_accuracy")) == 2 * 5
        assert len(setting.first_seed_client_rows("client_accuracy")) == 5
        assert len(leakage_fairness._pair_values(setting)) == 2 * 5


def test_settings_beyond_the_limit_are_counted(make_results, sweep, monkeypatch):
    monkeypatch.setattr(fairness, "MAX_ROWS", 2)
    monkeypatch.setattr(leakage_fairness, "MAX_PANELS", 1)
    results = make_results(sweep(axes=FRACTIONS))
    assert (
        "1 more are in rows.parquet" in fairness.draw_accuracy_spread(build_grid(results)).caption
    )


def test_without_an_audit_there_is_no_section_on_privacy(make_results, sweep):
    results = make_results(sweep())
    kept = ~results.rows["metric"].str.contains("leakage|mia")
    object.__setattr__(results, "rows", results.rows[kept])
    bare = build_grid(results)
    assert leakage_fairness.build_leakage_fairness(bare) is None
    assert leakage_fairness.draw_accuracy_and_leakage(bare) is None
    assert fairness.build_fairness(bare) is not None


def test_the_settings_of_corruptions_attacks_and_domains_are_told(make_results, sweep, monkeypatch):
    attack = {"attack": "apgd", "steps": 10, "num_images": 50, "radius": 4 / 255}
    measures = {"corruptions": {"names": ["fog"], "severity": 3}, "adversarial": attack}
    domains = {"class": "DomainShift", "transforms": [{"class": "a.Rotation", "degrees": 45.0}]}
    stored = {"evaluation": measures, "domains": domains}
    monkeypatch.setattr("fl_sim.report.grid.Setting.experiment", stored)
    grid = build_grid(make_results(sweep()))
    assert describe_measures(grid) == [
        "fog at severity 3",
        "APGD of 10 steps on 50 test images, within 4/255 of each pixel",
    ]
    assert describe_parts(grid, "domains") == ["DomainShift (transforms Rotation (degrees 45))"]
