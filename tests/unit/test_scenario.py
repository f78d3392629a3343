"""Scenarios: the sentence, the timeline, the fields, and a whole run that keeps each clause."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clients.label_flip import LabelFlipClient
from clients.sign_flip import SignFlipClient
from fl_sim import (
    Absent,
    Adversary,
    AvailabilityWindow,
    EarlyStop,
    Experiment,
    Participation,
    Protects,
)
from fl_sim.config import experiment_file
from fl_sim.core.errors import FieldError
from fl_sim.data.layout import Layout
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.report.grid import build_grid
from fl_sim.report.sections.timeline import reconstruct_timeline
from fl_sim.results import Results
from fl_sim.runs.runner import run
from fl_sim.samplers.cyclic import Cyclic
from fl_sim.scenario import Scenario, draw_timeline, is_scripted, make_plan
from strategies.fedavg import FedAvg
from strategies.krum import Krum
from strategies.stages import Stages
from strategies.trimmed_mean import TrimmedMean

Maker = Callable[..., Experiment]
FILE = Path(__file__).parents[2] / "experiments" / "who_does_what.py"
SCRIPT = experiment_file.read(FILE).experiment
SENTENCE = (
    "clients 0 to 3 protect 70 % of their images from round 1 with RandomNoise(radius=16/255); "
    "client 4 protects its images from round 5 with RandomNoise(radius=32/255); "
    "client 7 flips labels in rounds 3 to 6; "
    "client 9 is away in rounds 4 and 5; "
    "the server uses TrimmedMean(num_byzantine=2) until round 5, then Krum"
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Return the results of the experiment file, on fewer images."""
    sizes = [("data.num_samples", 300), ("data.num_test", 60), ("model.backbone", "linear")]
    done = run(SCRIPT.with_values(sizes), out=tmp_path_factory.mktemp("runs"), controls=False)
    assert done.complete
    return done


def table_of(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a metric by client and round; NaN where there is no row."""
    own = rows[(rows["metric"] == metric) & (rows["client"] >= 0)]
    return own.pivot_table(index="client", columns="round", values="value")


@pytest.mark.ray
@pytest.mark.parametrize("engine", ["ray", "flower"])
def test_a_scenario_has_the_same_bits_on_every_engine(tmp_path: Path, engine: Any) -> None:
    stop = EarlyStop(patience=2, min_change=0.3)
    plan = Participation(7, sampling=Cyclic(), absences=SCRIPT.participation.absences)
    sizes = [("data.num_samples", 200), ("data.num_test", 40)]
    asked = replace(SCRIPT, stop=stop, participation=plan).with_values(sizes)
    options: dict[str, Any] = {"controls": False, "workers": 2}
    local = run(asked, out=tmp_path / "local", controls=False).cells
    other = run(asked, out=tmp_path / "other", engine=engine, **options).cells
    for column in ("params_sha256", "rounds", "accuracy"):
        assert local[column].tolist() == other[column].tolist()


def test_the_file_has_at_most_25_lines_and_prints_as_its_sentence() -> None:
    assert len(FILE.read_text().splitlines()) <= 25
    assert str(Scenario.of(SCRIPT)) == SENTENCE


def test_each_clause_is_in_the_rows(results: Results) -> None:
    rows = results.rows
    protected = table_of(rows, "protected_share")
    assert protected.loc[:3].to_numpy() == pytest.approx(0.7, abs=0.05)
    assert (protected.loc[4, :4] == 0).all()  # client 4 begins in round 5
    assert (protected.loc[4, 5:] == 1).all()
    assert (protected.loc[5:] == 0).all(axis=None)
    trained = table_of(rows, "train_loss").notna().reindex(columns=range(1, 11))
    away = [(9, 4), (9, 5)]
    assert list(zip(*np.nonzero(~trained.to_numpy()), strict=True)) == [
        (client, round_num - 1) for client, round_num in away
    ]
    scored = rows[(rows["metric"] == "client_accuracy") & (rows["group"] == "attacker")]
    assert sorted(zip(scored["client"], scored["round"], strict=True)) == [
        (7, round_num) for round_num in range(3, 7)
    ]
    shares = table_of(rows, "rule_share")
    chosen = (shares == 1).sum()
    assert (chosen.loc[:5] == 0).all()  # a trimmed mean uses several updates
    assert (chosen.loc[6:] == 1).all()  # Krum uses one
    assert shares.loc[:, 6:].sum().tolist() == [1.0] * 5


def test_the_page_has_the_same_timeline(results: Results) -> None:
    grid = build_grid(results)
    line = reconstruct_timeline(grid, grid.finished[0])
    plan = make_plan(SCRIPT)
    assert line is not None
    assert line.sentence == SENTENCE
    assert dict(line.rules) == {6: "Krum"}
    for drawn, planned in ((line.protected, plan.protected), (line.away, plan.away)):
        assert np.array_equal(drawn, planned)
    assert np.array_equal(line.attacked, plan.attacked)
    assert np.array_equal(~line.delivered, plan.away)


def test_the_timeline_of_the_terminal() -> None:
    assert draw_timeline(SCRIPT).splitlines() == [
        "round               1       10",
        "clients 0 to 3      PPPPPPPPPP",
        "client 4            ....PPPPPP",
        "clients 5, 6 and 8  ..........",
        "client 7            ..AAAA....",
        "client 9            ...--.....",
        "server              1111122222",
        "P: protects, A: attacks, -: away, .: trains, 1: TrimmedMean(num_byzantine=2), 2: Krum",
    ]


def test_many_rounds_and_clients_fit_into_a_terminal(experiment: Maker) -> None:
    absences = tuple(Absent((i % 4,), first_round=1 + i, last_round=1 + i) for i in range(100))
    many = experiment(rounds=200, participation=Participation(absences=absences))
    assert max(map(len, draw_timeline(many).splitlines())) <= 80


@pytest.mark.parametrize(
    ("clause", "words"),
    [
        (
            Protects(num_clients=2, fraction=0.7),
            "2 clients drawn by the seed protect 70 % of their",
        ),
        (Protects(classes=(3, 4)), "all clients protect their images of classes 3 and 4 from"),
        (Protects((1,), last_round=4, protection=RandomNoise()), "until round 4 with RandomNoise"),
        (Layout(0.5, "clients", first_round=3), "all images of 50 % of the clients are protected "),
        (Adversary(SignFlipClient(scale=2.0), share=0.2), "20 % of the clients flip signs by Sign"),
        (Adversary(LabelFlipClient(), 2, last_round=1), "2 clients drawn by the seed flip labels "),
        (Absent(num_clients=1, first_round=3), "1 client drawn by the seed is away from round 3"),
        (AvailabilityWindow(2, 3, 5), "client 2 takes part in rounds 3 to 5"),
        (FedAvg(), "the server uses FedAvg"),
    ],
)
def test_each_kind_of_clause_has_words(clause: Any, words: str) -> None:
    assert words in str(Scenario(clause))


def test_fields_and_scenario_are_inverse(experiment: Maker) -> None:
    scenario = Scenario(
        Protects((0,), fraction=0.5),
        Adversary(LabelFlipClient(), clients=(1,)),
        Adversary(SignFlipClient(), clients=(2,)),
        Absent((3,), last_round=1),
        AvailabilityWindow(2, last_round=2),
        Stages((1, TrimmedMean(0)), (2, Krum(0))),
    )
    asked = experiment(protection=RandomNoise(), **scenario.fields())
    assert Scenario.of(asked) == scenario
    assert is_scripted(asked)
    assert not is_scripted(experiment())
    plan = Participation(drop_out=0.1)
    assert scenario.fields(plan)["participation"].drop_out == 0.1
    assert Scenario(FedAvg()).fields() == {"strategy": FedAvg()}
    assert "layout" not in Scenario.of(experiment()).fields()


@pytest.mark.parametrize(
    ("clauses", "message"),
    [
        ((FedAvg(), Krum()), "scenario: one rule; Stages makes one of several"),
        ((Layout(0.5), Protects()), "scenario: one Layout, or clauses Protects"),
    ],
)
def test_scenarios_that_contradict_themselves_are_refused(clauses: Any, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        Scenario(*clauses)
