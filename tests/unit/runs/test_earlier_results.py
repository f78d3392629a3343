"""Results of version 0.1 are resumed, reported and audited.

`tests/fixtures/results_0_1` was written by commit 91d59a7, before the packages were renamed: a
finished run from seed 0, and one from seed 1 that was interrupted after its first round.
"""

import shutil
from pathlib import Path

import pytest

from clients.sgd import SgdClient
from clients.sign_flip import SignFlipClient
from fl_sim import (
    Adversary,
    AvailabilityWindow,
    Data,
    Experiment,
    Model,
    Participation,
    load_results,
    run,
)
from fl_sim.audit.session import audit
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.report import page
from strategies.trimmed_mean import TrimmedMean

STORED = Path(__file__).parents[2] / "fixtures" / "results_0_1"
RUN = "earlier/9cd786add2cc"
EXPERIMENT = Experiment(
    name="earlier",
    client=SgdClient(),
    strategy=TrimmedMean(1),
    model=Model("linear"),
    partition=Iid(),
    data=Data(dataset="digits", num_clients=4, num_samples=80, num_test=20),
    rounds=2,
    adversary=Adversary(SignFlipClient(), num_clients=1),
    protection=RandomNoise(),
    layout=Layout(0.5),
    participation=Participation(stays=(AvailabilityWindow(client=2, first_round=2),)),
)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STORED, tmp_path / "runs"))


def test_the_run_id_is_unchanged(runs: Path) -> None:
    assert f"earlier/{EXPERIMENT.run_id}" == RUN
    stored = (runs / RUN / "seed=0" / "experiment.json").read_text()
    assert "fl_sim.participants.Stay" in stored
    assert Experiment.from_json(stored) == EXPERIMENT


def test_finished_runs_are_kept_and_interrupted_ones_continue(runs: Path) -> None:
    finished = (runs / RUN / "seed=0" / "result.json").read_bytes()
    rounds = []
    results = run(
        EXPERIMENT,
        [0, 1],
        out=runs,
        controls=False,
        resume=True,
        listen=lambda progress: rounds.append((progress.key[-6:], progress.round)),
    )
    assert results.complete, results.cells.error.tolist()
    assert rounds == [("seed=0", 2), ("seed=1", 2)]
    assert (runs / RUN / "seed=0" / "result.json").read_bytes() == finished


@pytest.mark.usefixtures("blank_figures")
def test_they_are_reported_and_audited(runs: Path) -> None:
    run(EXPERIMENT, [0, 1], out=runs, controls=False, resume=True)
    results = load_results(runs / "earlier")
    assert set(results.rows["round"]) == {1, 2}
    findings = audit(runs / RUN / "seed=0", tier=0)
    assert "loss" in set(findings["attack"])
    assert page.write_page(results).stat().st_size > 10_000
