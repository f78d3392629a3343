"""Numbers that are not there: shown as such, with the reason, and never as 0 or not at all."""

import io

import pytest
import torch
from rich.console import Console

from fl_sim.report import page, tables
from fl_sim.report.grid import build_grid
from fl_sim.report.sections import (
    accuracy_over_rounds,
    client_accuracy,
    cost,
    fairness,
    key_numbers,
    leakage,
    model_comparison,
)

AXES = {"strategy": ["FedAvg", "Krum"]}


def text_of(results) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(tables.build_summary_table(results))
    return " ".join(console.file.getvalue().split())


@pytest.fixture(scope="module")
def one_seed_diverged(make_results, sweep):
    def diverged(settings, seed):
        return settings["strategy"] == "Krum" and seed == 1

    return make_results(sweep(axes=AXES, seeds=(0, 1), diverged=diverged))


@pytest.fixture(scope="module")
def diverged(make_results, sweep):
    return make_results(sweep(axes=AXES, diverged=lambda settings, seed: True))


@pytest.fixture(scope="module")
def untested(make_results, sweep):
    return make_results(sweep(axes=AXES, seeds=(0, 1), untested=(2,), side_by_side=2))


def test_a_mean_says_of_how_many_seeds_it_is(one_seed_diverged):
    fedavg, krum = build_grid(one_seed_diverged).settings
    assert "±" in tables.A_MIX.text(fedavg)
    assert tables.A_MIX.text(krum).endswith("(1/2)")
    assert "A_mix is not defined: the model diverged (Krum)." in text_of(one_seed_diverged)


def test_a_sweep_of_diverged_runs_is_a_table_of_reasons(diverged):
    text = text_of(diverged)
    for column in ("A_mix", "AUC", "worst client"):
        assert f"{column} is not defined: the model diverged (every setting)." in text
    section = key_numbers.build_key_numbers(build_grid(diverged))
    assert any("A_mix is not defined: the model diverged" in own for own in section.paragraphs)
    assert all(cell.text != "0.0" for row in section.components[0].rows for cell in row)


def test_a_page_of_diverged_runs_can_be_written(diverged):
    text = page.write_page(diverged).read_text()
    assert "the model diverged" in text
    assert "nan" not in text.lower().replace("nanmean", "").split("<svg")[0]


def test_a_client_without_an_accuracy_is_said_to_have_none(untested):
    grid = build_grid(untested)
    section = fairness.build_fairness(grid)
    assert "FedAvg, Krum: 1 of 5 clients left out: not defined." in section.paragraphs
    drawing = client_accuracy.draw_accuracy_by_client(grid)
    assert "not defined" in drawing.svg
    assert "its accuracy is not defined" in drawing.caption
    assert "are not drawn (4 of 20)" in fairness.draw_accuracy_spread(grid).caption


def test_the_course_of_a_run_that_diverged_says_so(one_seed_diverged, untested):
    said = "Where the model of a seed diverged"
    assert (
        said
        in accuracy_over_rounds.draw_accuracy_over_rounds(build_grid(one_seed_diverged)).caption
    )
    assert said not in accuracy_over_rounds.draw_accuracy_over_rounds(build_grid(untested)).caption


def test_no_curve_is_drawn_of_margins_that_are_not_there(one_seed_diverged):
    signals = build_grid(one_seed_diverged).settings[0].read_signals()[0]
    assert leakage.compute_roc(signals) is not None
    signals.loc[3, "margin"] = float("nan")
    assert leakage.compute_roc(signals) is None


def test_time_is_that_of_the_processor_with_a_spread(one_seed_diverged):
    grid = build_grid(one_seed_diverged)
    table = cost.build_cost(grid).components[0]
    place = table.columns.index("CPU seconds")
    cells = grid.settings[0].summary_values("cost.cpu_seconds")
    mean, spread = float(torch.tensor(cells).mean()), float(torch.tensor(cells).std())
    assert table.rows[0][place].text == f"{mean:.2f} ± {spread:.2f}"
    assert tables.CPU.text(grid.settings[0]) == f"{mean:.2f} ± {spread:.2f}"


@pytest.mark.parametrize("name", ["terminal", "cost", "starts"])
def test_times_are_shown_with_the_number_of_parallel_runs(make_results, sweep, name):
    said = "2 runs were side by side on this machine"
    axes = {"model": ["resnet, pretrained, head", "cnn, random, full"]}
    for count in (1, 2):
        results = make_results(sweep(axes=axes, side_by_side=count))
        grid = build_grid(results)
        texts = {
            "terminal": lambda results=results: text_of(results),
            "cost": lambda grid=grid: " ".join(cost.build_cost(grid).paragraphs),
            "starts": lambda grid=grid: " ".join(
                model_comparison.build_model_comparison(grid).paragraphs
            ),
        }
        assert (said in " ".join(texts[name]().split())) == (count == 2)


def test_unmeasured_time_has_a_reason(untested):
    text = text_of(untested)
    assert "CPU s is not defined: Flower's nodes do not say what they use (every setting)." in text
    assert tables.CPU.text(build_grid(untested).settings[0]) == "-"
