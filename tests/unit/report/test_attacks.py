"""Rules against attacks: the right cell, the worst case, and what the attackers may know."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.alie import AlieClient
from clients.fedbn import FedBNClient
from clients.label_flip import LabelFlipClient
from clients.model_replacement import ModelReplacementClient
from fl_sim import Adversary
from fl_sim.core.atomic_io import write_json
from fl_sim.core.plugins import paragraph_of
from fl_sim.core.serialization import describe, label
from fl_sim.report.components import DefinitionList, Drawing, Table
from fl_sim.report.grid import Grid, Setting, build_grid
from fl_sim.report.heat_map import tabulate_means
from fl_sim.report.sections import attacks
from fl_sim.results import Results

RULES = ["FedAvg", "CoordinateMedian"]
ATTACKS = ["none", "AlieClient, 2 clients", "SignFlipClient(scale=3.0), 2 clients"]
AXES = {"partition": ["Iid", "Dirichlet"], "strategy": RULES, "adversary": ATTACKS}
Writer = Callable[[Any], Results]


@pytest.fixture(scope="module")
def results(make_results: Writer, sweep: Any) -> Results:
    found = make_results(sweep(axes=AXES, seeds=(0, 1)))
    flipping = FedBNClient(training=LabelFlipClient())  # in a field of another name
    attacker = describe(Adversary(ModelReplacementClient(honest=flipping), 2))
    for path in Path(found.path).rglob("experiment.json"):
        content = json.loads(path.read_text())
        write_json(path, content | {"adversary": [attacker]})
    return found


@pytest.fixture(scope="module")
def grid(results: Results) -> Grid:
    return build_grid(results)


def accuracy(setting: Setting) -> float:
    return float(np.mean(setting.summary_values("accuracy")))


def found_setting(grid: Grid, partition: str, rule: str, attack: str) -> Setting:
    wanted = {"partition": partition, "strategy": rule, "adversary": attack}
    (setting,) = [s for s in grid.settings if s.values == wanted]
    return setting


def test_every_cell_is_the_mean_of_its_setting(grid: Grid) -> None:
    for partition in AXES["partition"]:
        own = [s for s in grid.settings if s.values["partition"] == partition]
        found = tabulate_means(grid, own, "strategy", "adversary")
        for i, rule in enumerate(RULES):
            for j, attack in enumerate(ATTACKS):
                expected = accuracy(found_setting(grid, partition, rule, attack))
                assert found[i, j] == pytest.approx(expected)


def test_the_worst_case_is_the_lowest_of_all_attacks(grid: Grid) -> None:
    section = attacks.build_attacks(grid)
    assert section is not None
    (worst,) = [part for part in section.components if isinstance(part, Table)]
    assert worst.columns == ("setting", "rule", "worst attack", "accuracy, %")
    assert len(worst.rows) == 4
    for i, row in enumerate(worst.rows):
        partition, rule = AXES["partition"][i // 2], RULES[i % 2]
        lowest = min(accuracy(found_setting(grid, partition, rule, a)) for a in ATTACKS[1:])
        shown, spread = map(float, row[3].text.split(" ± "))
        assert shown == pytest.approx(100 * lowest, abs=0.5 if spread >= 10 else 0.05)


def test_a_heat_map_is_drawn(grid: Grid) -> None:
    section = attacks.build_attacks(grid)
    assert section is not None
    (drawing,) = [part for part in section.components if isinstance(part, Drawing)]
    assert drawing.name == "rules_against_attacks"
    assert drawing.svg.startswith("<?xml")


def test_the_threat_models_of_all_attacks_are_told(grid: Grid) -> None:
    section = attacks.build_attacks(grid)
    assert section is not None
    (told,) = [part for part in section.components if isinstance(part, DefinitionList)]
    assert [name for name, _ in told.entries] == ["ModelReplacementClient", "LabelFlipClient"]
    assert all(len(text) > 20 for _, text in told.entries)


def test_a_missing_run_leaves_the_worst_case_open(make_results: Writer, sweep: Any) -> None:
    def broken(settings: dict[str, Any], seed: int) -> bool:
        return bool(settings["strategy"] == "FedAvg" and settings["adversary"] == ATTACKS[1])

    grid = build_grid(make_results(sweep(axes=AXES, broken=broken)))
    rows = attacks._build_worst_cases(grid, "adversary").rows
    assert [row[2].text == "-" for row in rows] == [True, False, True, False]
    assert attacks._draw_heat_maps(grid, "adversary").svg


def test_an_attack_that_made_the_model_diverge_leaves_the_worst_case_open(
    make_results: Writer, sweep: Any
) -> None:
    def diverged(settings: dict[str, Any], seed: int) -> bool:
        return bool(settings["strategy"] == "FedAvg" and settings["adversary"] == ATTACKS[1])

    grid = build_grid(make_results(sweep(axes=AXES, diverged=diverged)))
    rows = attacks._build_worst_cases(grid, "adversary").rows
    assert [row[2].text == "-" for row in rows] == [True, False, True, False]
    assert rows[0][2].doubt == f"{ATTACKS[1]}: the model diverged"


def test_without_attackers_there_is_no_section(make_results: Writer, sweep: Any) -> None:
    assert attacks.build_attacks(build_grid(make_results(sweep(axes={"strategy": RULES})))) is None


def test_what_attacks_have_in_common_is_left_out() -> None:
    differing = ["AlieClient, 2 clients", "AlieClient, 3 clients"]
    assert attacks._shorten_names(differing) == ["Alie, 2 clients", "Alie, 3 clients"]
    inside = label(Adversary(LabelFlipClient("random", 0.5), 2))
    assert attacks._shorten_names([inside]) == ["LabelFlip(labels=random, share=0.5)"]


def test_a_docstring_without_the_paragraph_has_none() -> None:
    assert paragraph_of(AlieClient, attacks.THREAT).startswith("the attackers know all honest")
    assert paragraph_of(AlieClient, "No such opening") == ""
