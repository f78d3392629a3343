"""An interrupt ends a run after the current round, and resuming gives the same bits."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_sim import Data, Experiment, run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_finishes_its_round_and_resumes_to_the_same_bits(
    experiment: Callable[..., Experiment], tmp_path: Path, sign: signal.Signals
) -> None:
    data = Data(dataset="digits", num_clients=2, num_samples=100, num_test=60)
    wanted = experiment(data=data, rounds=20)
    file = tmp_path / "experiment.json"
    file.write_text(wanted.to_json())
    command = [sys.executable, "-m", "fl_sim", "run", str(file), "--no-controls"]
    going = subprocess.Popen(
        [*command, "--out", str(tmp_path / "a"), "--progress", "json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert going.stdout is not None
    first = json.loads(going.stdout.readline())
    going.send_signal(sign)
    out, err = going.communicate(timeout=300)
    lines = [first, *map(json.loads, out.splitlines())]
    assert going.returncode == 130
    assert "interrupted after the current round" in err
    assert "Traceback" not in err
    assert lines[-1]["round"] < 20, "it finished before it was interrupted"
    (folder,) = (tmp_path / "a").glob("*/*/seed=0")
    newest = max((folder / "checkpoints").glob("*.safetensors"))
    assert newest.name == f"round-{lines[-1]['round']:06d}.safetensors"
    assert not (folder / "result.json").exists()
    resumed = run(wanted, out=tmp_path / "a", controls=False, resume=True)
    whole = run(wanted, out=tmp_path / "b", controls=False)
    assert resumed.complete
    assert resumed.cells.params_sha256[0] == whole.cells.params_sha256[0]
