"""Compiled networks: near to those that are not, and refused without a compiler."""

import copy
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fl_sim import Data, Experiment, Model
from fl_sim.core.compilation import check_compiler, use_compilation
from fl_sim.core.errors import FieldError
from fl_sim.federation.federation import load_federation
from fl_sim.runs.run_options import RunOptions
from fl_sim.training.client_trainer import make_trainer

Maker = Callable[..., Experiment]
SMALL = {"data": Data("digits", 4, 200, 60), "model": Model("tiny_cnn", norm="off"), "rounds": 2}


def is_compiled(network: nn.Module) -> bool:
    return network._compiled_call_impl is not None


def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(FieldError, match=r"compile: False without a C\+\+ compiler: .*\+\+ is not"):
        RunOptions(compile=True)
    with pytest.raises(FieldError, match="compile: False for clients of Flower"):
        RunOptions(compile=True, engine="flower")


def test_a_compiler_that_does_not_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(FieldError, match=r"a C\+\+ compiler: false does not work"):
        RunOptions(compile=True)


def test_a_compiler_without_headers_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("CXX", sys.executable)  # it knows --version, too
    with pytest.raises(FieldError, match=r"without Python's headers.*Python\.h is missing"):
        RunOptions(compile=True)


def test_a_gpu_needs_a_c_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(FieldError, match="without a C compiler: gcc or clang is not installed"):
        check_compiler(torch.device("cuda"))
    check_compiler(torch.device("mps"))


@pytest.mark.slow
def test_every_trainer_compiles_its_own_network(experiment: Maker) -> None:
    federation = load_federation(experiment(**SMALL).to_json())
    assert not is_compiled(make_trainer(federation).model)
    with use_compilation(True):
        trainer = make_trainer(federation)
    assert is_compiled(trainer.model)
    assert not is_compiled(federation.model)
    sent = copy.deepcopy(trainer.model)  # as to a worker
    assert not is_compiled(sent)
    assert is_compiled(replace(trainer, model=sent).model)


SCRIPT = """
import sys
from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model, run
from strategies.fedavg import FedAvg

data, model = Data("digits", 4, 200, 60), Model("tiny_cnn", norm="off")
fields = {"client": SgdClient(), "strategy": FedAvg(), "data": data, "model": model}
small = Experiment(name="compiled", rounds=2, **fields)
plain = run(small, out=sys.argv[1], controls=False).cells
cells = run(small, out=sys.argv[1], controls=False, compile=True).cells
(cell,) = cells[cells["run_id"] != plain["run_id"][0]].itertuples()
assert cell.status == "finished", cell
assert abs(cell.loss / plain["loss"][0] - 1) < 1e-3, (cell, plain)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_run_is_another_run_that_learns_as_well(tmp_path: Path) -> None:
    """A process of its own, since checks of types stand in the way of the compiler."""
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], check=True, timeout=300)
