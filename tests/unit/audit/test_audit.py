"""Audits of finished runs: requirements, files and findings."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.attacks.gradient_inversion import compute_gradient
from fl_sim.attacks.gradient_norm import head_gradient_norm
from fl_sim.attacks.lira import Lira
from fl_sim.attacks.loss_threshold import LossThreshold
from fl_sim.attacks.rmia import Rmia
from fl_sim.audit.findings import AttackContext, run_attacks, set_thresholds, tune_rmia
from fl_sim.audit.references import plan_head_training
from fl_sim.audit.server_view import compute_head_cosine, record_server_view
from fl_sim.audit.session import audit, find_run_folders
from fl_sim.audit.target_run import load_target
from fl_sim.contracts.attacks import Signals, Trajectory, draw_paired_members
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.metrics.membership import Finding, Records
from fl_sim.participants import Participation
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.runs.environment import describe_changes
from fl_sim.runs.runner import run

Maker = Callable[..., Experiment]
DATA = Data(dataset="digits", num_clients=2, num_samples=200, num_test=100, held_out=0.5)


@pytest.fixture(scope="module")
def head_run(experiment: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a head over a frozen front, half of whose records are protected."""
    own = experiment(
        data=DATA,
        model=Model("small_cnn", tune="head"),
        protection=RandomNoise(),
        layout=Layout(fraction=0.5),
    )
    return only_folder(run(own, out=tmp_path_factory.mktemp("runs"), controls=False).path)


def only_folder(root: Path) -> Path:
    (folder,) = find_run_folders(root)
    assert find_run_folders(folder.parent) == [folder]  # of one setting, for all its seeds
    return folder


def test_tier_0_needs_no_references(head_run: Path) -> None:
    findings = audit(head_run, tier=0)
    over_start = {"margin over start", "loss since start", "start"}
    assert set(findings["attack"]) == {"loss", "gap", "population", "gradient norm"} | over_start
    assert set(findings["num_references"]) == {0}
    area = findings[(findings.attack == "loss") & (findings.metric == "auc")]
    seen = pd.read_parquet(head_run / "signals.parquet").query("audited")
    expected = roc_auc_score(seen["member"], -seen["loss"])
    whole = area[(area.group == "all") & (area.client == -1)]
    assert whole["value"].item() == pytest.approx(expected, abs=1e-3)
    assert set(area["client"]) == {-1, 0, 1}
    assert set(area[area.client == -1].group) == {"all", "protected", "clean"}


def test_the_gap_attack_is_half_the_gap_of_accuracies(head_run: Path) -> None:
    findings = audit(head_run, tier=0)
    chosen = (findings.attack == "gap") & (findings.metric == "auc") & (findings.client == -1)
    seen = pd.read_parquet(head_run / "signals.parquet").query("audited")
    right = seen.groupby("member")["correct"].mean()
    expected = 0.5 + (right[True] - right[False]) / 2
    value = findings[chosen & (findings.group == "all")]["value"].item()
    assert value == pytest.approx(expected, abs=1e-12)


def test_tier_2_of_a_head_trains_shadow_heads(head_run: Path) -> None:
    findings = audit(head_run, tier=2, references=16)
    done = findings[(findings.metric == "auc") & (findings.client == -1)]
    names = set(done[done.group == "all"].attack)
    assert {"LiRA online", "LiRA offline", "RMIA online", "calibrated margin", "loss"} <= names
    calibrated = findings[findings.attack == "LiRA online"]
    assert set(calibrated.num_references) == {16}
    assert set(calibrated.references) == {"heads"}
    assert {"ppv_at_fixed_0.01_prior_0.1", "epsilon_at_fixed_0.01"} <= set(calibrated.metric)
    assert "shift_only_auc" in set(calibrated.metric)
    summary = json.loads((head_run / "audit.json").read_text())
    assert summary["headline"] == "LiRA online"
    assert summary["attacks"]["LiRA online"]["num_references"] == 16


def test_every_record_has_a_rank_for_every_attack(head_run: Path) -> None:
    findings = audit(head_run, tier=1, references=4)
    ranks = pd.read_parquet(head_run / "audit_records.parquet")
    audited = pd.read_parquet(head_run / "signals.parquet")["audited"].sum()
    valid = findings[(findings.metric == "auc") & findings.valid].attack.unique()
    assert len(ranks) == audited * len(valid)
    assert ranks["rank"].between(0, 1).all()


def test_the_same_audit_gives_the_same_numbers_and_reads_its_signals_back(head_run: Path) -> None:
    first = audit(head_run, tier=1, references=4)
    kept = (head_run / "audit.safetensors").stat().st_mtime_ns
    pd.testing.assert_frame_equal(first, audit(head_run, tier=1, references=4))
    assert (head_run / "audit.safetensors").stat().st_mtime_ns == kept
    (head_run / "audit.safetensors").unlink()
    pd.testing.assert_frame_equal(first, audit(head_run, tier=1, references=4))


def test_other_networks_are_replayed(experiment: Maker, tmp_path: Path) -> None:
    """The replays are runs of the same experiment, and are kept for later audits."""
    own = experiment(data=DATA, rounds=1)
    folder = only_folder(run(own, out=tmp_path, controls=False).path)
    heard: list[int] = []
    findings = audit(folder, 1, 3, listen=lambda progress: heard.append(progress.round))
    assert len(heard) == 3 + 1  # and the replay of the run
    signals = load_file(folder / "audit.safetensors")
    assert signals["margin"].shape == (4, 200)
    assert 0.2 < float(signals["members"][1:].double().mean()) < 0.8
    assert not torch.equal(signals["members"][1], signals["members"][2])
    assert set(findings[findings.attack == "RMIA online"].references) == {"replays"}
    replays = [path.stat().st_mtime_ns for path in folder.rglob("replays/*/*/*/result.json")]
    audit(folder, 1, 3)
    assert replays == [p.stat().st_mtime_ns for p in folder.rglob("replays/*/*/*/result.json")]


def test_a_replay_gives_the_same_bits(experiment: Maker, tmp_path: Path) -> None:
    """Recorded scores are those of the models that clients sent; absent clients are left out."""
    own = experiment(
        data=replace(DATA, num_clients=4),
        rounds=3,
        participation=Participation(clients_per_round=3),
    )
    folder = only_folder(run(own, out=tmp_path, controls=False).path)
    seen, why = record_server_view(load_target(folder), lambda progress: None)
    assert seen is not None, why
    assert seen.client_margin.shape[:2] == (3, 4)
    absent = seen.client_margin.isnan().all(2)
    assert absent.sum(1).tolist() == [1, 1, 1]
    findings = audit(folder, 1, 2)
    found = set(findings[(findings.metric == "auc") & findings.valid].attack)
    assert {"loss series", "delta loss", "FedMIA-I", "FedMIA-II", "average cosine"} <= found
    areas = findings[findings.metric == "auc"]
    assert set(areas[areas.attack == "FedMIA-I"].view) == {"server"}
    excess = findings[findings.metric == "source_excess"]["value"].item()
    rates = findings.set_index("metric")["value"]
    assert excess == pytest.approx(rates["source_accuracy"] - rates["source_held_out_accuracy"])


def test_a_run_that_cannot_be_replayed_is_reported(experiment: Maker, tmp_path: Path) -> None:
    folder = only_folder(run(experiment(data=DATA, rounds=1), out=tmp_path, controls=False).path)
    target_run = load_target(folder)
    elsewhere = replace(
        target_run, result={**target_run.result, "params_sha256": "of another machine"}
    )
    seen, why = record_server_view(elsewhere, lambda progress: None)
    assert seen is None
    assert why == (
        "the replay did not give the run's model: the environment is as recorded, so the code or "
        "the data changed"
    )


def test_another_version_of_torch_is_reported(experiment: Maker, tmp_path: Path) -> None:
    folder = only_folder(run(experiment(data=DATA, rounds=1), out=tmp_path, controls=False).path)
    path = folder / "environment.json"
    then = json.loads(path.read_text()) | {"torch": "1.0", "switches": {"MKL_CBWR": "COMPATIBLE"}}
    path.write_text(json.dumps(then))
    told = describe_changes(folder, "local")
    assert f"torch was 1.0, is {torch.__version__}" in told
    assert "MKL_CBWR was COMPATIBLE, is None" in told


def test_the_cosine_of_a_head_is_that_of_its_gradient() -> None:
    with seed_torch(0, "head"):
        head = torch.nn.Linear(7, 3).double()
    rng = generator(0, "cosine")
    features = torch.randn(5, 7, generator=rng, dtype=torch.float64)
    labels, delta = torch.tensor([0, 1, 2, 1, 0]), torch.randn(24, generator=rng)
    error = head(features).softmax(1).detach()
    error[torch.arange(5), labels] -= 1
    found = compute_head_cosine(delta, error, features)
    for i in range(5):
        gradient = compute_gradient(head, features[i : i + 1], labels[i : i + 1])
        expected = torch.cosine_similarity(-gradient, delta.double(), dim=0)
        assert float(found[i]) == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize(("size", "batch"), [(6, 64), (40, 64), (40, 20)])
def test_a_single_step_reveals_the_number_of_its_records(
    experiment: Maker, tmp_path: Path, size: int, batch: int
) -> None:
    """Few records in one step, more than the classes can distinguish, and two steps."""
    own = experiment(
        data=replace(DATA, num_samples=4 * size),
        partition=Iid(),
        model=Model("small_cnn", tune="head"),
        client=SgdClient(batch_size=batch),
    )
    folder = only_folder(run(own, out=tmp_path, controls=False).path)
    flags = audit(folder, tier=1, references=4).query("metric == 'head_rank'")
    counts = pd.read_parquet(folder / "signals.parquet").query("member").groupby("client").size()
    one_step = [count for count in counts if count <= batch]
    assert len(one_step) == (2 if batch == 64 else 0)
    assert flags.value.tolist() == [min(count, 9) for count in one_step]
    assert flags.valid.tolist() == [count < 9 for count in one_step]
    assert set(flags.view) <= {"server"}


def test_gradient_norms_of_a_round_equal_those_of_an_audit(head_run: Path) -> None:
    rows = pd.read_parquet(head_run / "rows.parquet")
    last = rows[(rows.metric == "mia_gradient_norm_auc") & (rows["round"] == rows["round"].max())]
    findings = audit(head_run, tier=0).query("attack == 'gradient norm' and metric == 'auc'")
    for group in ("all", "protected", "clean"):
        found = findings[(findings.group == group) & (findings.client == -1)].value.item()
        assert last[last.group == group].value.item() == pytest.approx(found, abs=1e-6)


def test_the_norm_of_a_heads_gradient_is_in_closed_form() -> None:
    with seed_torch(0, "head"):
        head = torch.nn.Linear(7, 3).double()
    features = torch.randn(5, 7, generator=generator(0, "norm"), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 1, 0])
    found = head_gradient_norm(head(features).detach(), labels, features)
    for i in range(5):
        gradient = compute_gradient(head, features[i : i + 1], labels[i : i + 1])
        assert float(found[i]) == pytest.approx(float(gradient.norm()), rel=1e-9)


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no finished run in"):
        find_run_folders(tmp_path)
    (tmp_path / "experiment.json").write_text("{}")
    with pytest.raises(RequestError, match=r"is not a finished run: model\.safetensors is missing"):
        audit(tmp_path)


def test_a_model_of_another_run_is_refused(head_run: Path) -> None:
    path = head_run / "model.safetensors"
    before = path.read_bytes()
    tensors = load_file(path)
    tensors["parameters"] = tensors["parameters"] + 1.0 * torch.randn(tensors["parameters"].shape)
    save_file(tensors, path)
    try:
        with pytest.raises(RequestError, match=r"model\.safetensors: was changed since"):
            audit(head_run, tier=0)
    finally:
        path.write_bytes(before)


def test_a_run_without_non_members_is_refused(experiment: Maker, tmp_path: Path) -> None:
    own = experiment(data=replace(DATA, held_out=0.0), rounds=1)
    folder = only_folder(run(own, out=tmp_path, controls=False).path)
    with pytest.raises(RequestError, match="has no non-members"):
        audit(folder, 0)


@pytest.mark.parametrize(("tier", "references"), [(3, None), (1, 1)])
def test_a_wrong_tier_or_number_of_references_is_refused(
    head_run: Path, tier: int, references: int | None
) -> None:
    with pytest.raises(FieldError):
        audit(head_run, tier, references)


def test_heads_are_trained_like_those_of_the_federation(experiment: Maker) -> None:
    own = experiment(rounds=6, data=DATA)
    how = plan_head_training(own)
    assert how.batch_size == 2 * 32
    assert (how.epochs, how.learning_rate, how.momentum) == (6, 0.05, 0.9)
    assert plan_head_training(own, num_rounds=4).epochs == 4  # of a run that was stopped


def bench(models: int = 9, count: int = 400, strength: float = 1.0) -> AttackContext:
    """Return signals of normally distributed records."""
    rng = generator(0, "bench")
    members = draw_paired_members(models, count, rng)
    difficulty = 2 * torch.randn(count, generator=rng)
    margin = difficulty + strength * members + 0.5 * torch.randn(models, count, generator=rng)
    population = 2 * torch.randn(models, 300, generator=rng)
    cells = torch.arange(count) % 5
    records = Records(cells % 2, cells, cells < 0, members[0])
    about = Finding("", "", 0.0, references="heads")
    return AttackContext(
        Signals(margin, members, population), records, None, None, about, num_classes=10
    )


def test_thresholds_do_not_depend_on_the_target() -> None:
    """Another membership and another margin of the target leave them unchanged."""
    own = bench()
    blind = bench()
    blind.signals.margin[0], blind.signals.members[0] = 7.0, True
    for trial in (Rmia("online"), Lira("offline")):
        assert set_thresholds(own, trial) == set_thresholds(blind, trial)
    assert tune_rmia(own, Rmia("offline")) == tune_rmia(blind, Rmia("offline"))


def test_a_threshold_meets_its_nominal_rate() -> None:
    own = bench()
    found = set_thresholds(own, Lira("offline"))
    assert set(found) == {0.01}
    scores = Lira("offline").scores(own.target_evidence())[~own.records.members]
    assert float((scores > found[0.01]).double().mean()) < 0.05


def test_uncalibrated_scores_have_no_threshold() -> None:
    assert set_thresholds(bench(), LossThreshold()) == {}


def test_an_attack_that_gives_every_record_the_same_score_has_no_number() -> None:
    """As on clients that send statistics: no update of theirs is a model of its own."""
    margin = torch.zeros(1, 4, 400)
    watched = Trajectory(margin, margin[:, 0], torch.arange(400) % 4)
    findings, scores = run_attacks(replace(bench(), trajectory=watched), tier=1)
    for name in ("loss series", "delta loss"):
        (area,) = (f for f in findings if (f.attack, f.metric) == (name, "auc"))
        assert not area.valid
        assert area.value != area.value
        assert area.note == "the updates of this run give every record the same score"
        assert name not in scores


def test_missing_evidence_is_reported() -> None:
    few = bench(models=2)
    findings, scores = run_attacks(few, tier=2)
    lira = next(f for f in findings if f.attack == "LiRA online")
    assert not lira.valid
    assert lira.note.startswith("needs 2 IN and 2 OUT references per record; got ")
    assert "LiRA online" not in scores
    assert "loss" in scores
