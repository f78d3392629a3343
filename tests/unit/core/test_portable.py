"""The portable mode: one hash on every x86-64 processor, and refusals where it cannot hold."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_sim import Experiment, run
from fl_sim.core import portable
from fl_sim.core.cache import digest
from fl_sim.core.device import resolve_devices
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.core.portable import choose_portable_instructions, refuse_other_processor
from fl_sim.runs.environment import SWITCHES
from fl_sim.runs.run_options import RunOptions

Maker = Callable[..., Experiment]

# Of two rounds of SMALL on any x86-64 processor: convolutions, linear layers and softmax.
GOLDEN = "3b276f078d0204a3b2bbade749fcaa2c34a77e2af8a3037e66eac116fa08d4a3"
SMALL = """
from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from strategies.fedavg import FedAvg

EXPERIMENT = Experiment(
    name="golden",
    client=SgdClient(),
    strategy=FedAvg(),
    data=Data("digits", num_samples=200, num_test=50, num_clients=2),
    model=Model("small_cnn"),
    rounds=2,
)
"""


def run_portable(folder: Path, *options: str, **environment: str) -> dict[str, str]:
    """Run SMALL by the command line in a process of its own, and return its result."""
    (folder / "small.py").write_text(SMALL)
    command = ["run", "small.py", "--no-controls", "--progress", "none", *options]
    done = subprocess.run(
        [sys.executable, "-m", "fl_sim", *command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "runs" / "golden").glob("*/seed=0")
    recorded = json.loads((path / "environment.json").read_text())
    assert (recorded["capability"], recorded["portable"]) == ("DEFAULT", True)
    assert recorded["switches"] == recorded["switches"] | {
        name: value for name, value in portable.SWITCHES.items() if name in SWITCHES
    }
    result: dict[str, str] = json.loads((path / "result.json").read_text())
    assert result["portable"]
    return result


def test_the_golden_hash_holds_on_this_machine(tmp_path: Path) -> None:
    refuse_or_skip()
    assert run_portable(tmp_path, "--portable")["params_sha256"] == GOLDEN


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "environment"),
    [
        (("--portable", "--engine", "ray", "--workers", "1"), {}),
        (("--portable", "--engine", "flower", "--workers", "1"), {}),
        (("--seeds", "0,1", "--workers", "2"), {"FL_SIM_PORTABLE": "1"}),
        (("--portable",), {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "MKL_CBWR": "AVX2"}),
        (("--portable",), {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-ERMS"}),
    ],
)
def test_the_golden_hash_holds_on_every_engine_and_with_other_instructions(
    options: tuple[str, ...], environment: dict[str, str], tmp_path: Path
) -> None:
    refuse_or_skip()
    assert run_portable(tmp_path, *options, **environment)["params_sha256"] == GOLDEN


def refuse_or_skip() -> None:
    try:
        refuse_other_processor()
    except RequestError as error:
        pytest.skip(str(error))


def test_it_is_refused_after_torch_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="numpy and torch was loaded before: start Python with"):
        choose_portable_instructions()
    for name, value in portable.SWITCHES.items():  # as in a process that a portable one started
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(portable.VARIABLE, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    choose_portable_instructions()
    assert portable.is_portable()


def test_other_processors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    info.write_text("flags\t\t: fpu sse2 avx\n")
    with pytest.raises(RequestError, match="portable: a processor with avx2 and fma"):
        refuse_other_processor(info)
    info.write_text("flags\t\t: fpu sse2 avx fma avx2\n")
    refuse_other_processor(info)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(RequestError, match="portable: an x86-64 processor; got aarch64"):
        refuse_other_processor(info)


def test_what_depends_on_the_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_or_skip()
    before = digest("same")
    monkeypatch.setenv(portable.VARIABLE, "1")
    assert digest("same") != before  # cached noise of the two modes lies apart
    assert [device.type for device in resolve_devices("auto")] == ["cpu"]
    with pytest.raises(FieldError, match="device: auto or cpu in the portable mode; got 'cuda'"):
        resolve_devices("cuda")
    with pytest.raises(FieldError, match="compile: False in the portable mode"):
        RunOptions(compile=True)
    with pytest.raises(FieldError, match="ray_address: none in the portable mode"):
        RunOptions(engine="ray", ray_address="auto")


def test_a_run_of_another_mode_is_not_continued_unasked(
    experiment: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = run(experiment(rounds=1), out=tmp_path, controls=False)
    monkeypatch.setenv(portable.VARIABLE, "1")
    refuse_or_skip()
    with pytest.raises(RequestError, match="was made without --portable, and this is with"):
        run(experiment(rounds=1), out=tmp_path, controls=False, resume=True)
    monkeypatch.delenv(portable.VARIABLE)
    (path,) = results.path.glob("*/seed=0/environment.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"portable": True}))
    with pytest.raises(RequestError, match="run it with --portable, or give --mix-devices"):
        run(experiment(rounds=1), out=tmp_path, controls=False, resume=True)
    kept = run(experiment(rounds=1), out=tmp_path, controls=False, resume=True, mix_devices=True)
    assert kept.complete
