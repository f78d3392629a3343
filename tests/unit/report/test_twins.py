"""Foundation models beside their random twins: pairs, differences, the card and the maps."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from fl_sim.report.grid import Grid, Setting, build_grid
from fl_sim.report.sections import fm_card
from fl_sim.report.sections.accuracy_by_cost import build_accuracy_by_cost, choose_inside, sum_costs
from fl_sim.report.sections.fm_card import build_fm_card, describe_difference
from fl_sim.report.sections.twin_differences import build_map, build_twin_differences
from fl_sim.report.twins import (
    Difference,
    describe_model,
    find_twins,
    group_by_model,
    measure_difference,
    pair_by_seed,
)
from fl_sim.results import Results, load_results
from fl_sim.results.quantities import RunNumbers

Make = Callable[..., Results]
INITS = {"pretrained": ("vit", "head"), "random": ("vit", "head"), "cnn": ("small_cnn", "full")}
AXES = {"model": list(INITS), "partition": ["Dirichlet(alpha=0.1)", "Iid"]}


def with_models(results: Results, missing: str = "") -> Results:
    """Write the models and partitions of the axes into the experiments of a synthetic sweep."""
    for cell in results.cells.to_dict("records"):
        folder = results.path / str(cell["run_id"]) / f"seed={cell['seed']}"
        path = folder / "experiment.json"
        word = str(cell["settings.model"])
        backbone, tune = INITS[word]
        experiment = json.loads(path.read_text())
        init = "pretrained" if word == "pretrained" else "random"
        experiment["model"] = {"backbone": backbone, "init": init, "tune": tune}
        experiment["partition"] = {"class": str(cell["settings.partition"])}
        path.write_text(json.dumps(experiment))
    if missing:
        summary = Path(results.path / "summary.json")
        content = json.loads(summary.read_text())
        content["cells"] = [
            cell
            for cell in content["cells"]
            if cell["settings"] != {"model": missing, "partition": "Iid"}
        ]
        content["skipped"] = [
            {
                "settings": {"model": missing, "partition": "Iid"},
                "seed": 0,
                "label": "",
                "reason": "too slow",
            }
        ]
        summary.write_text(json.dumps(content))
    return load_results(results.path)


@pytest.fixture(scope="module")
def results(make_results: Make, sweep: Any) -> Results:
    return with_models(make_results(sweep(axes=AXES, seeds=(0, 1, 2))))


@pytest.fixture
def grid(results: Results) -> Grid:
    return build_grid(results)


def test_the_twin_shares_all_but_the_start(grid: Grid) -> None:
    pairs = find_twins(grid)
    assert len(pairs) == 2
    for pair in pairs:
        assert pair.setting.values["partition"] == pair.twin.values["partition"]
        assert (pair.model, pair.twin_model) == ("vit, pretrained, head", "vit, random, head")
        assert pair.differing == ()
    (group,) = group_by_model(find_twins(grid, other_backbone=True)).items()
    assert group[0] == ("vit, pretrained, head", "small_cnn, random, full")
    assert group[1][0].differing == ("backbone", "tune")


def test_differences_are_paired_by_seed_and_averaged_over_settings(grid: Grid) -> None:
    cells = grid.results.cells.set_index(["settings.model", "settings.partition", "seed"])
    found = measure_difference(RunNumbers(grid.results), "accuracy", find_twins(grid))
    assert found is not None
    slow = [
        fmean(
            cells.loc[("pretrained", p, seed), "accuracy"]
            - cells.loc[("random", p, seed), "accuracy"]
            for p in AXES["partition"]
        )
        for seed in (0, 1, 2)
    ]
    assert found.values.tolist() == pytest.approx(slow)
    assert found.num_pairs == 2
    assert found.own - found.other == pytest.approx(found.mean)


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=3, max_size=6))
def test_the_interval_is_that_of_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    own, other = (dict(enumerate(side)) for side in zip(*pairs, strict=True))
    found = pair_by_seed([(own, other)])
    assert found is not None
    if np.ptp(found.values) > 1e-6:
        expected = ttest_rel(list(own.values()), list(other.values())).confidence_interval(0.95)
        assert found.interval() == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_pairs_without_a_common_seed_are_left_out() -> None:
    one = ({0: 0.5, 1: 0.7}, {0: 0.4, 1: 0.4, 2: 0.9})
    found = pair_by_seed([one, ({0: 0.1}, {1: 0.2}), ({}, {0: 1.0})])
    assert found is not None
    assert found.values.tolist() == pytest.approx([0.1, 0.3])
    assert found.num_pairs == 1
    assert pair_by_seed([({}, {})]) is None
    assert pair_by_seed([({0: 1.0}, {0: 0.0}), ({1: 1.0}, {1: 0.0})]) is None


def difference(*values: float) -> Difference:
    return Difference(0.5, 0.25, np.array(values), 1)


@pytest.mark.parametrize(
    ("values", "higher", "word"),
    [
        ((0.2, 0.21, 0.22), True, fm_card.BETTER),
        ((0.2, 0.21, 0.22), False, fm_card.WORSE),
        ((-0.2, -0.21, -0.22), False, fm_card.BETTER),
        ((0.2, -0.1, 0.2), True, fm_card.UNSEEN),
        ((0.0, 0.0, 0.0), True, fm_card.EQUAL),
        ((0.1, 0.1, 0.1), True, fm_card.BETTER),
        ((0.2,), True, fm_card.ONE_SEED),
    ],
)
def test_a_verdict_is_given_where_the_interval_excludes_0(
    values: tuple[float, ...], higher: bool, word: str
) -> None:
    verdict = describe_difference("accuracy", difference(*values), 1, higher_is_better=higher)
    assert verdict.word == word
    assert verdict.numbers == "50.0 against 25.0 %"


def test_costs_are_compared_as_a_factor_and_missing_settings_are_counted() -> None:
    verdict = describe_difference(
        "cost.bytes", Difference(2e6, 8e6, np.array([-6e6, -6e6]), 2), 3, higher_is_better=False
    )
    assert verdict == (
        *(fm_card.BETTER, "2.00 against 8.00, 0.25 times"),
        "-6.00 (2 of 3 settings)",
    )


def test_the_card_opens_the_page_and_tells_what_was_not_measured(grid: Grid) -> None:
    section = build_fm_card(grid)
    assert section is not None
    drawing, models_table, numbers, sources = section.components
    assert drawing.kind == "drawing"
    assert models_table.kind == numbers.kind == sources.kind == "table"
    assert [row[2].text for row in models_table.rows] == ["nothing else", "backbone, tune"]
    assert len(numbers.rows) == 2 * len(fm_card.ROWS)
    words = {(row[1].text, row[2].text): row[3].text for row in numbers.rows}
    models = "vit, pretrained, head, against vit, random, head"
    assert words["MB up and down", models] == fm_card.EQUAL
    assert words["adversarial accuracy", models] == fm_card.MISSING
    assert words["accuracy", models] in (fm_card.UNSEEN, fm_card.BETTER, fm_card.WORSE)
    reasons = {row[1].text: row[5].text for row in numbers.rows}
    assert reasons["adversarial accuracy"] == "needs evaluation.adversarial"
    assert reasons["membership TPR at 1 % FPR"] == "120 non-members; 300 needed"
    assert all(row[1].text and row[2].text for row in sources.rows)


def test_rounds_to_the_target_count_one_more_where_it_is_not_reached(grid: Grid) -> None:
    (pair, _) = find_twins(grid)
    own, other = fm_card._count_rounds(pair)
    best = max(fmean(s.summary_values("accuracy")) for s in (pair.setting, pair.twin))
    for setting, counts in ((pair.setting, own), (pair.twin, other)):
        rows = setting.metric_rows("accuracy")
        for seed, count in counts.items():
            by_round = rows[rows["seed"] == seed].set_index("round")["value"]
            reached = [i for i in (1, 2, 3) if by_round[i] >= 0.9 * best]
            assert count == min(reached, default=4)


def test_maps_hold_a_difference_for_each_model_and_value(grid: Grid) -> None:
    pairs = find_twins(grid)
    found = build_map(RunNumbers(grid.results), "accuracy", pairs, "partition")
    assert found.columns == AXES["partition"]
    assert set(found.squares) == {("vit, pretrained, head", c) for c in found.columns}
    section = build_twin_differences(grid)
    assert section is not None
    assert [part.name for part in section.components] == ["twin_differences"]


def test_a_missing_twin_is_blank_with_the_reason(make_results: Make, sweep: Any) -> None:
    made = make_results(sweep(axes={**AXES, "model": ["pretrained", "random"]}))
    grid = build_grid(with_models(made, missing="random"))
    assert len(find_twins(grid)) == 1
    section = build_twin_differences(grid)
    assert section is not None
    assert section.paragraphs[1] == "No twin of model pretrained · Iid: skipped, too slow."
    card = build_fm_card(grid)
    assert card is not None
    table = card.components[2]
    assert table.kind == "table"
    assert fm_card.ONE_SEED in {row[3].text for row in table.rows}


def test_no_foundation_model_no_card(make_results: Make, sweep: Any) -> None:
    grid = build_grid(make_results(sweep(axes={"strategy": ["FedAvg", "Krum"]})))
    assert build_fm_card(grid) is None
    assert build_twin_differences(grid) is None
    assert build_accuracy_by_cost(grid) is None  # all send the same bytes


def test_costs_are_added_up_over_the_rounds(grid: Grid) -> None:
    setting = grid.finished[0]
    line = sum_costs(setting, ("bytes_up", "bytes_down"), 1e-6)
    assert line.costs.tolist() == pytest.approx([5.0, 10.0, 15.0])
    by_round = setting.metric_rows("accuracy").groupby("round")["value"]
    assert line.accuracies.tolist() == pytest.approx(by_round.mean().tolist())
    assert line.spreads.tolist() == pytest.approx(by_round.std().tolist())
    assert choose_inside(grid) == ["model"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "vit, pretrained, lora, rank=8"}, "vit, pretrained, lora, rank=8"),
        ({"model.rank": "8", "model.tune": "lora"}, "vit, pretrained, lora, rank 8"),
        ({"strategy": "FedAvg"}, "vit, pretrained, lora"),
    ],
)
def test_a_model_is_described_with_the_fields_that_are_varied(
    values: dict[str, str], words: str
) -> None:
    setting = Setting(values, pd.DataFrame(), pd.DataFrame(), {})
    setting.__dict__["experiment"] = {
        "model": {"backbone": "vit", "init": "pretrained", "tune": "lora", "rank": 8}
    }
    assert describe_model(setting) == words


def test_the_note_of_a_summary_number_is_its_reason(results: Results) -> None:
    cells = results.cells.assign(
        **{"backdoor.half_life": np.nan, "backdoor.half_life_note": "above half in all 3 rounds"}
    )
    cells.loc[0, "backdoor.half_life"] = 2.0
    numbers = RunNumbers(Results(results.path, results.rows, cells, results.failures, True))
    assert numbers.find("half_life") == "backdoor.half_life"
    reason = numbers.reason("backdoor.half_life", cells.index[1:])
    assert reason == "above half in all 3 rounds"
