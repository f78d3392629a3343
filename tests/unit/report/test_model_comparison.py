import math

import pandas as pd
import pytest

from fl_sim.report.grid import Setting, build_grid
from fl_sim.report.sections.model_comparison import (
    build_model_comparison,
    count_rounds_to,
    sum_bytes_to,
)

MODELS = {
    "model": ["resnet, pretrained, head", "cnn, random, full"],
    "strategy": ["FedAvg", "Krum"],
}


def race(accuracies):
    rows = [
        {"round": i + 1, "metric": metric, "value": value, "client": -1, "group": "all", "seed": s}
        for s, own in enumerate(accuracies)
        for i, accuracy in enumerate(own)
        for metric, value in (("accuracy", accuracy), ("bytes_up", 1e6))
    ]
    return Setting({}, pd.DataFrame(), pd.DataFrame(rows), {})


def test_rounds_to_is_the_first_round_at_or_above_the_goal():
    setting = race([[0.1, 0.5, 0.4, 0.9], [0.1, 0.2, 0.3, 0.4]])
    first, second = count_rounds_to(setting, 0.5)
    assert first == 2
    assert math.isnan(second)


def test_megabytes_are_added_up_to_that_round():
    setting = race([[0.1, 0.5], [0.1, 0.2]])
    reached, never = sum_bytes_to(setting, [2.0, float("nan")])
    assert reached == 2e6
    assert math.isnan(never)


def test_models_that_share_all_else_race_to_the_same_target(make_results, sweep):
    results = make_results(sweep(axes=MODELS, seeds=(0, 1)))
    section = build_model_comparison(build_grid(results))
    assert section.title == "Foundation start against random start"
    assert "differ in backbone as well as in their start" in section.paragraphs[1]
    table = section.components[0]
    assert table.columns[:2] == ("strategy", "model")
    target = table.columns.index("target, %")
    mean = results.cells.groupby(["settings.strategy", "settings.model"])["accuracy"].mean()
    wanted = [f"{90 * best:.1f}" for best in mean.groupby(level=0).max()]
    assert [row[target].text for row in table.rows] == [w for w in wanted for _ in range(2)]


def test_a_model_that_diverged_does_not_set_the_target(make_results, sweep):
    def diverged(settings, seed):
        return "resnet" in settings["model"]

    results = make_results(sweep(axes={"model": MODELS["model"]}, diverged=diverged))
    table = build_model_comparison(build_grid(results)).components[0]
    first, second = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert first["final accuracy, %"].text == "-"
    best = results.cells["accuracy"].max()
    assert second["target, %"].text == f"{90 * best:.1f}"


@pytest.mark.parametrize("axes", [{}, {"strategy": ["FedAvg", "Krum"]}])
def test_no_models_to_compare_no_section(make_results, sweep, axes):
    assert build_model_comparison(build_grid(make_results(sweep(axes=axes)))) is None
