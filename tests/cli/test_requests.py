"""The command line: wrong requests are reported in one line, before any work."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl_sim.results import load_results
from fl_sim.results.columns import find_undescribed

ROOT = Path(__file__).parents[2]
QUICKSTART = "experiments/quickstart.py"
SMALL = [
    *("--set", "data.dataset=digits"),
    *("--set", "data.num_samples=300"),
    *("--set", "data.num_test=100"),
    *("--set", "model.backbone=small_cnn"),
    *("--set", "model.init=random"),
    *("--set", "model.tune=full"),
]


Call = Callable[..., Any]


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the folder of the experiments."""
    monkeypatch.chdir(ROOT)


@pytest.fixture
def run_small(fl_sim: Call) -> Call:
    """Return a caller of `fl-sim run` on a few digits."""

    def call(out: Path, *more: str) -> Any:
        return fl_sim("run", QUICKSTART, *SMALL, "--out", str(out), "--workers", "1", *more)

    return call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "layout.fracton=0.5"], ["no field 'fracton'; did you mean 'fraction'?"]),
        (["--set", "layout.fraction=1.5"], ["layout.fraction", "between 0 and 1", "1.5"]),
        (["--set", "protection.radius=16"], ["protection.radius", "16/255", "got 16.0"]),
        (["--set", "data.num_clients=301"], ["data.num_clients", "at most", "301"]),
        (["--set", "rounds=two"], ["rounds", "int", "'two'"]),
        (["--set", "model.backbone=resent18"], ["model.backbone", "did you mean 'resnet18'?"]),
        (["--set", "data.dataset=fashion-mnist"], ["did you mean 'fashion_mnist'?"]),
        (["--set", "strategy=os.system"], ["strategy", "AggregationRule", "os.system"]),
        (["--set", "strategy=strategies.krum.squared_distances"], ["is not a part", "clients"]),
        (["--seeds", "0,x"], ["--seeds", "0,1,2", "0,x"]),
        (["--seeds", "0,0"], ["--seeds", "different", "(0, 0)"]),
        (["--seeds", "-1"], ["--seeds", "0,1,2", "-1"]),
        (["--seeds", "9" * 30], ["--seeds", "2^63"]),
        (["--seeds", "9" * 6000], ["--seeds", "2^63"]),
        (["--set", "seed=9223372036854775808"], ["seed", "2^63"]),
        (["--set", "rounds=1e999"], ["rounds", "finite"]),
        (["--set", "data.path=~nosuchuser/x"], ["data.path", "home folder", "~nosuchuser"]),
        (["--set", f"data.path={'a' * 5000}"], ["data.path", "too long"]),
        (["--set", "strategy=Kurm"], ["strategy", "did you mean 'Krum'?", "TrimmedMean"]),
        (["--set", "protection=sme"], ["did you mean 'sem'?", "ErrorMinimizing (em)"]),
        (["--engine", "warp"], ["--engine", "warp", "local"]),
        (["--set", "participation.clients_per_round=4", "--set", "strategy.num_byzantine=2",
          "--set", "strategy=TrimmedMean"], ["clients_per_round", "2f+1 = 5 clients; got 4"]),
        (["--set", "strategy.num_byzantine=2"], ["no field 'num_byzantine'"]),
    ],
)  # fmt: skip
def test_a_wrong_request_is_reported_in_one_line_and_writes_nothing(
    tmp_path: Path, run_small: Call, arguments: list[str], words: list[str]
) -> None:
    done = run_small(tmp_path / "runs", *arguments)
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    assert all(word in done.err for word in words), done.err
    assert not (tmp_path / "runs").exists()


def test_missing_weights_name_the_file_to_fill(
    tmp_path: Path, run_small: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    wanted = ["model.backbone=resnet34", "model.init=pretrained", "model.tune=head"]
    done = run_small(tmp_path / "runs", *(part for field in wanted for part in ("--set", field)))
    assert done.code == 2
    assert f"{tmp_path}/torch/hub/checkpoints/resnet34" in done.err
    assert not (tmp_path / "runs").exists()


def test_a_network_without_weights_has_no_pretrained_start(tmp_path: Path, run_small: Call) -> None:
    done = run_small(tmp_path / "runs", "--set", "model.init=pretrained")
    assert done.code == 2
    assert "small_cnn" in done.err


def test_a_run_leaves_a_summary_and_a_report(tmp_path: Path, fl_sim: Call, run_small: Call) -> None:
    done = run_small(tmp_path, "--rounds", "1", "--seeds", "0,1")
    assert done.code == 0, done.err
    folder = tmp_path / "quickstart"
    summary = json.loads((folder / "summary.json").read_text())
    assert [cell["seed"] for cell in summary["cells"]] == [0, 1]
    wanted = "experiment run_id seeds engine rounds accuracy protection leakage fairness cost"
    for cell in summary["cells"]:
        assert set(wanted.split()) | {"params_sha256"} <= set(cell)
        assert cell["protection"]["a_clean"] is not None
    assert (folder / "rows.parquet").exists()
    assert (folder / "report.html").exists()
    assert "report.html" in done.out
    results = load_results(folder)
    assert find_undescribed("cells", results.cells.columns) == []
    assert find_undescribed("rows", results.rows.columns) == []
    rebuilt = fl_sim("report", str(tmp_path))
    assert rebuilt.code == 0, rebuilt.err


def test_a_failed_run_ends_with_one(tmp_path: Path, run_small: Call) -> None:
    failing = ["--set", "client.learning_rate=1e30", "--rounds", "2"]
    done = run_small(tmp_path, *failing)
    assert done.code == 1, done.err
    summary = json.loads((tmp_path / "quickstart" / "summary.json").read_text())
    assert summary["cells"][0]["status"] == "failed"
    assert "not finite" in summary["cells"][0]["error"]


@pytest.mark.parametrize(
    "kind", ["protections", "strategies", "clients", "metrics", "datasets", "models", "columns"]
)
def test_lists_name_every_plug_in_with_its_source(kind: str) -> None:
    from fl_sim.cli.catalogue import list_entries

    found = list_entries(kind)  # type: ignore[arg-type]
    assert found
    assert all(entry.text and entry.source for entry in found)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, run_small: Call) -> None:
    arguments = ["--rounds", "40", "--no-controls"]
    assert run_small(tmp_path / "whole", *arguments).code == 0
    command = [sys.executable, "-m", "fl_sim", "run", QUICKSTART, *SMALL, *arguments]
    killed = subprocess.Popen(
        [*command, "--out", str(tmp_path / "b")], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    deadline = time.time() + 120
    while not list((tmp_path / "b").glob("**/round-000003.safetensors")):
        assert time.time() < deadline, "no checkpoint within two minutes"
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not list((tmp_path / "b").glob("**/result.json")), "it finished before it was killed"
    assert run_small(tmp_path / "b", *arguments, "--resume").code == 0
    hashes = [
        json.loads((tmp_path / name / "quickstart/summary.json").read_text())["cells"][0]
        for name in ("whole", "b")
    ]
    assert hashes[0]["params_sha256"] == hashes[1]["params_sha256"]


def test_an_audit_of_nothing_is_a_wrong_request(fl_sim: Call, tmp_path: Path) -> None:
    done = fl_sim("audit", str(tmp_path))
    assert done.code == 2
    assert done.err == f"error: no finished run in {tmp_path}\n"


def test_an_audit_of_an_experiment_lists_attacks_and_rebuilds_the_page(
    run_small: Call, fl_sim: Call, tmp_path: Path
) -> None:
    assert run_small(tmp_path, "--rounds", "1", "--no-controls").code == 0
    root = tmp_path / "quickstart"
    done = fl_sim("audit", str(root), "--tier", "0")
    assert done.code == 0, done.err
    assert "gradient norm" in done.out
    assert "Audited leakage" in (root / "report.html").read_text()


def test_a_device_that_is_missing_ends_in_one_line(
    run_small: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_sim.core.device.count_devices", dict)
    done = run_small(tmp_path, "--device", "cuda")
    assert done == (2, "", "error: device: auto or cpu on this machine; got 'cuda'\n")
    assert not list(tmp_path.iterdir())


def test_auto_names_the_device_once(
    run_small: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_sim.core.device.count_devices", dict)
    done = run_small(tmp_path, "--rounds", "1", "--device", "auto", "--no-controls")
    assert done.code == 0
    assert done.out.count("device:") == 1
    assert "device: cpu, since this machine has no accelerator" in done.out


def test_tf32_on_a_processor_is_refused(run_small: Call, tmp_path: Path) -> None:
    done = run_small(tmp_path, "--device", "cpu", "--precision", "tf32")
    allowed = "float32 or bf16 on cpu, as TF32 is a mode of NVIDIA's GPUs"
    assert done == (2, "", f"error: precision: {allowed}; got 'tf32'\n")
    assert not list(tmp_path.iterdir())
