"""The precision of networks: its place in a run's identity, and the switches that it sets."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fl_sim import Data, Experiment, Model, run, use_precision
from fl_sim.audit.server_view import record_server_view
from fl_sim.audit.target_run import load_target
from fl_sim.core.errors import FieldError
from fl_sim.core.precision import current_precision
from fl_sim.federation.federation import load_federation
from fl_sim.runs.run_options import RunOptions

Maker = Callable[..., Experiment]


def test_tf32_is_set_inside_the_block_only() -> None:
    switches = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    with use_precision("tf32"):
        assert current_precision() == "tf32"
        assert [switch.fp32_precision for switch in switches] == ["tf32", "tf32"]
        with use_precision(None):
            assert current_precision() == "tf32"
        with use_precision("float32"):
            assert [switch.fp32_precision for switch in switches] == ["ieee", "ieee"]
        assert [switch.fp32_precision for switch in switches] == ["tf32", "tf32"]
    assert [switch.fp32_precision for switch in switches] == before
    assert current_precision() == "float32"


def test_clients_of_flower_are_told_no_precision() -> None:
    with pytest.raises(FieldError, match="precision: float32 for clients of Flower"):
        RunOptions(engine="flower", precision="bf16")
    with pytest.raises(FieldError, match="precision: float32 or bf16 on cpu"):
        RunOptions(precision="tf32")


def test_a_run_in_bfloat16_is_another_run(experiment: Maker, tmp_path: Path) -> None:
    """It lies beside the one in single precision, learns as well, and can be replayed."""
    small = experiment(
        rounds=3, data=Data("digits", 4, 200, 60), model=Model("tiny_cnn", norm="group")
    )
    plain = run(small, out=tmp_path, controls=False).cells
    with use_precision("bf16"):
        federation = load_federation(small.to_json())
    assert federation.model.precision == "bf16"  # type: ignore[union-attr]
    coarse = run(small, out=tmp_path, controls=False, precision="bf16", resume=True)
    (cell,) = coarse.cells[coarse.cells["precision"] == "bf16"].itertuples()
    assert list(plain["precision"]) == ["float32"]
    assert cell.run_id != plain["run_id"][0]
    assert cell.params_sha256 != plain["params_sha256"][0]
    assert abs(cell.accuracy - plain["accuracy"][0]) < 0.15
    folders = [path.parent for path in tmp_path.rglob("result.json")]
    assert len(folders) == 2
    folder = next(path for path in folders if path.parent.name == cell.run_id)
    assert json.loads((folder / "environment.json").read_text())["precision"] == "bf16"
    with use_precision("bf16"):  # as an audit does by itself
        assert record_server_view(load_target(folder), lambda progress: None)[1] == ""
