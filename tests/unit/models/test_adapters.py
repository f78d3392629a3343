"""Adapter files: what is written is read back, and what does not fit is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from fl_sim import run
from fl_sim.cli import app
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.core.seeding import seed_torch
from fl_sim.core.tensor_files import read_unsealed, write_tensors
from fl_sim.experiment import Experiment, Model
from fl_sim.federation.federation import hash_files, prepare_federation
from fl_sim.models import adapters
from fl_sim.models.adapters import (
    CONFIG,
    TENSORS,
    load_adapter,
    name_modules,
    write_adapter,
)
from fl_sim.models.low_rank import add_low_rank, find_low_rank, send_base
from fl_sim.models.parameters import flatten

MODEL = Model("net", tune="lora", rank=2, alpha=6.0)


class Net(nn.Module):
    """Attention, a convolution and a linear layer, by the names of a user's network."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)


def trained_part(seed: int = 0, model: Model = MODEL) -> nn.Sequential:
    """Return a trained part, cut from a network, with changes and a head drawn by `seed`."""
    with seed_torch(seed, "adapter"):
        network = Net()
        name_modules(network)
        body = nn.Sequential(network.patches, network.attention, network.mlp)
        add_low_rank(body, model.rank, model.lora_scaling)
        for layer in find_low_rank(body).values():
            nn.init.normal_(layer.up)
    return nn.Sequential(*body, network.head)


def started(folder: Path, **fields: Any) -> Tensor:
    """Return the parameters of another network after it has started from a folder."""
    model = Model("net", tune="lora", adapter=str(folder), **{"rank": 2, "alpha": 6.0} | fields)
    part = trained_part(seed=1, model=model)
    load_adapter(part, model)
    return flatten(part)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    part = trained_part()
    write_adapter(part, MODEL, tmp_path)
    assert torch.equal(started(tmp_path), flatten(part))
    assert Model("net", tune="lora", adapter=str(tmp_path)).hash_adapter()


def test_the_files_have_the_names_and_shapes_of_peft(tmp_path: Path) -> None:
    write_adapter(trained_part(), MODEL, tmp_path)
    tensors, _ = read_unsealed(tmp_path / TENSORS)
    assert {
        name.removeprefix("base_model.model."): list(t.shape) for name, t in tensors.items()
    } == {
        "patches.lora_A.weight": [2, 3, 4, 4],
        "patches.lora_B.weight": [8, 2, 1, 1],
        "attention.lora_A.weight": [2, 8],
        "attention.lora_B.weight": [24, 2],
        "attention.base_layer.out_proj.lora_A.weight": [2, 8],
        "attention.base_layer.out_proj.lora_B.weight": [8, 2],
        "mlp.lora_A.weight": [2, 8],
        "mlp.lora_B.weight": [8, 2],
        "head.weight": [5, 8],
        "head.bias": [5],
    }
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config["target_modules"] == ["patches", "attention", "mlp"]
    assert (config["r"], config["lora_alpha"], config["modules_to_save"]) == (2, 6.0, ["head"])


def test_an_adapter_without_a_head_leaves_the_head_as_it_is(tmp_path: Path) -> None:
    part = trained_part()
    write_adapter(part, MODEL, tmp_path)
    tensors, _ = read_unsealed(tmp_path / TENSORS)
    write_tensors(tmp_path / TENSORS, {n: t for n, t in tensors.items() if ".lora_" in n}, {})
    size = sum(p.numel() for p in part[-1].parameters())
    assert torch.equal(started(tmp_path)[:-size], flatten(part)[:-size])
    assert torch.equal(started(tmp_path)[-size:], flatten(trained_part(seed=1))[-size:])


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match=r"model\.adapter.*is missing"):
        started(tmp_path)
    with pytest.raises(FieldError, match=r"model\.adapter: a folder with"):
        Model("net", tune="lora", adapter=str(tmp_path)).hash_adapter()
    write_adapter(trained_part(), MODEL, tmp_path)
    with pytest.raises(FieldError, match=r"model\.rank: 2, as in"):
        started(tmp_path, rank=3)
    with pytest.raises(FieldError, match=r"model\.alpha: 6"):
        started(tmp_path, alpha=2.0)
    tensors, _ = read_unsealed(tmp_path / TENSORS)
    name = "base_model.model.mlp.lora_A.weight"
    for changed in (
        {n: t for n, t in tensors.items() if n != name},
        tensors | {name: torch.zeros(2, 9)},
        tensors | {"base_model.model.mlp2.lora_A.weight": torch.zeros(2, 8)},
    ):
        write_tensors(tmp_path / TENSORS, changed, {})
        with pytest.raises(FieldError, match="an adapter of the trained blocks of net"):
            started(tmp_path)
    with pytest.raises(FieldError, match="adapter: None unless tune is 'lora'"):
        Model(adapter="somewhere")


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("alpha_pattern", {"mlp": 64}),
        ("rank_pattern", {"mlp": 1}),
        ("use_dora", True),
        ("bias", "lora_only"),
        ("fan_in_fan_out", True),
        ("init_lora_weights", "pissa"),
        ("unknown_to_us", 1),
        ("lora_alpha", "x"),
        ("lora_alpha", None),
    ],
)
def test_adapters_that_peft_computes_otherwise_are_refused(
    entry: str, value: Any, tmp_path: Path
) -> None:
    write_adapter(trained_part(), MODEL, tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    plain = {"alpha_pattern": {}, "use_dora": False, "init_lora_weights": True, "revision": None}
    (tmp_path / CONFIG).write_text(json.dumps({**config, **plain}))
    started(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({**config, entry: value}))
    with pytest.raises(FieldError, match=rf"^model.adapter: .*{entry}"):
        started(tmp_path)


def test_adapters_of_other_numbers_or_half_a_head_are_refused(tmp_path: Path) -> None:
    write_adapter(trained_part(), MODEL, tmp_path)
    good, _ = read_unsealed(tmp_path / TENSORS)
    name = next(iter(good))
    bias = next(each for each in good if each.endswith(".bias"))
    for bad, cause in (
        ({**good, name: good[name] * torch.inf}, "finite numbers"),
        ({**good, name: good[name].to(torch.int8)}, name),
        ({key: value for key, value in good.items() if key != bias}, bias),
    ):
        write_tensors(tmp_path / TENSORS, bad, {})
        with pytest.raises(FieldError, match=f"^model.adapter: .*{cause}"):
            started(tmp_path)


def test_a_break_between_the_files_leaves_no_mixed_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_adapter(trained_part(), MODEL, tmp_path)

    def fails(path: Path, content: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(adapters, "write_json", fails)
    with pytest.raises(KeyboardInterrupt):
        write_adapter(trained_part(1), MODEL, tmp_path)
    with pytest.raises(FieldError, match=r"^model.adapter: a folder with"):
        started(tmp_path)


def test_what_an_adapter_cannot_hold_is_refused(tmp_path: Path) -> None:
    folded = trained_part()
    send_base(folded)
    plain = nn.Sequential(nn.Linear(8, 5))
    for part, message in ((folded, "frozen weights"), (plain, "only 'lora'")):
        with pytest.raises(RequestError, match=message):
            write_adapter(part, MODEL, tmp_path)


def test_a_run_is_exported_and_another_starts_from_it(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    lora = Model("mlp", tune="lora", rank=2, alpha=4.0)
    (folder,) = run_folders(experiment(model=lora), tmp_path / "runs")
    out = tmp_path / "adapter"
    assert CliRunner().invoke(app, ["export", "adapter", str(folder), str(out)]).exit_code == 0
    again = experiment(model=replace(lora, adapter=str(out)))
    end, _ = read_unsealed(folder / "model.safetensors")
    assert torch.equal(prepare_federation(again).start, end["parameters"])
    moved = out.rename(tmp_path / "moved")
    there = experiment(model=replace(lora, adapter=str(moved)))
    assert there.run_id not in (experiment(model=lora).run_id,)
    assert hash_files(there)["model_sha256"] == there.model.hash_adapter()
    config = json.loads((moved / CONFIG).read_text())
    assert config["base_model_name_or_path"] == "mlp"


def test_runs_that_are_no_adapter_are_refused(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    (folder,) = run_folders(experiment(model=Model("mlp")), tmp_path / "runs")
    result = CliRunner().invoke(app, ["export", "adapter", str(folder), str(tmp_path / "out")])
    assert isinstance(result.exception, RequestError)
    assert "only 'lora' trains an adapter" in str(result.exception)
    result = CliRunner().invoke(app, ["export", "adapter", str(tmp_path), str(tmp_path / "out")])
    assert isinstance(result.exception, RequestError)


def run_folders(experiment: Experiment, out: Path) -> list[Path]:
    """Run an experiment, and return the folder of its run."""
    assert run(experiment, out=out, controls=False).complete
    return [path.parent for path in out.glob("*/*/*/result.json")]
