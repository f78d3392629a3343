"""Exported networks: their own package and `init=checkpoint` load them, with the same outputs."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from fl_sim import run
from fl_sim.cli import app
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.experiment import Experiment, Model
from fl_sim.models.adapters import CONFIG, write_adapter
from fl_sim.models.closed_form import CosineHead
from fl_sim.models.export import collect_state, describe_inputs
from fl_sim.models.prompts import Prompted
from fl_sim.models.tuning import Network, TrainedPart, build_network
from strategies.fedex_lora import FedExLoRA

DISTILLED = "deit_tiny_distilled_patch16_224"
SHAPE, CLASSES = (3, 16, 16), 7
CODE = """
from torch import nn

class Layer(nn.Sequential):
    def __init__(self, inputs):
        super().__init__(nn.Conv2d(inputs, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))

def features():
    return nn.Sequential(Layer(3), Layer(4), nn.Flatten())

def whole(num_classes):
    return nn.Sequential(Layer(3), Layer(4), nn.Flatten(), nn.Linear(576, num_classes))

class Padded(nn.Conv2d):
    def __init__(self, inputs, outputs, kernel_size, zeros, **options):
        super().__init__(inputs, outputs, kernel_size, **options)
        self.zeros = zeros

    def forward(self, maps):
        return super().forward(nn.functional.pad(maps, self.zeros))

def padded(num_classes):
    layers = [nn.Sequential(Padded(3, 4, 3, [1] * 4), Padded(4, 4, 3, [1] * 4)) for _ in range(2)]
    layers[1] = nn.Sequential(Padded(4, 4, 3, [1] * 4), Padded(4, 4, 3, [1] * 4))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, num_classes))

features.side = whole.side = padded.side = 16
"""


@pytest.fixture(autouse=True)
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a module of networks of the user."""
    (tmp_path / "own_nets.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    import own_nets

    return own_nets


def trained(model: Model) -> Network:
    """Return a network whose weights and statistics have changed since its start."""
    network = build_network(model, SHAPE, CLASSES, 0)
    draw = generator(0, "trained")
    with torch.no_grad():
        for name, tensor in network.trained.state_dict().items():
            if tensor.is_floating_point():
                change = 0.1 * torch.rand(tensor.shape, generator=draw)
                tensor.add_(change if "running_mean" not in name else change + 0.5)
    return network


def outputs(network: Network) -> Tensor:
    images = torch.rand(3, *SHAPE, generator=generator(1, "images"))
    with torch.no_grad():
        return nn.Sequential(*network.frozen, *network.trained).eval()(images)  # type: ignore[no-any-return]


def timm_vit(num_classes: int) -> nn.Module:
    timm: Any = pytest.importorskip("timm")
    return timm.create_model(DISTILLED, num_classes=num_classes, img_size=32)  # type: ignore[no-any-return]


def lite0(num_classes: int) -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    network._fc = nn.Linear(1280, num_classes)
    return network


CASES: dict[str, tuple[dict[str, Any], Callable[[int], nn.Module] | None]] = {
    "full": ({"backbone": "small_cnn"}, None),
    "bias": ({"backbone": "own_nets:whole", "tune": "bias"}, None),
    "last_block": ({"backbone": "own_nets:features", "tune": "last_block"}, None),
    "ridge": ({"backbone": "own_nets:features", "tune": "ridge"}, None),
    "lora, two heads": ({"backbone": f"timm:{DISTILLED}", "tune": "lora", "pixels": 32}, timm_vit),
    "lora of Lite0": ({"backbone": "efficientnet_lite0", "tune": "lora", "pixels": 32}, lite0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_package_and_a_checkpoint_compute_the_same(case: str, tmp_path: Path) -> None:
    fields, make = CASES[case]
    network = trained(Model(**fields))
    state, wanted = collect_state(network), outputs(network)
    assert all(tensor.dtype != torch.float64 for tensor in state.values())
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    plain = {name: value for name, value in fields.items() if name != "tune"}
    with seed_torch(1, "another start"):
        again = build_network(
            Model(**plain, init="checkpoint", checkpoint=str(path)), SHAPE, CLASSES, 1
        )
    torch.testing.assert_close(outputs(again), wanted, rtol=1e-4, atol=1e-4)
    if make is not None:
        package = make(CLASSES)
        package.load_state_dict(load_file(path))
        images = torch.rand(3, *SHAPE, generator=generator(1, "images"))
        inputs = nn.Sequential(*[*network.frozen, *network.trained][:2])(images)
        with torch.no_grad():
            torch.testing.assert_close(package.eval()(inputs), wanted, rtol=1e-4, atol=1e-4)
        assert describe_inputs(network)["pixels"] == "32"


def test_the_names_are_those_of_the_users_network(nets: Any) -> None:
    state = collect_state(trained(Model("own_nets:features")))
    own = set(nets.features().state_dict())
    assert set(state) == own | {"head.weight", "head.bias"}
    nets.features().load_state_dict({name: state[name] for name in own})


def test_the_own_weights_of_a_users_features_are_a_checkpoint(nets: Any, tmp_path: Path) -> None:
    network = nets.features()
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    path = str(tmp_path / "own.safetensors")
    model = Model("own_nets:features", init="checkpoint", checkpoint=path)
    with pytest.warns(match="no head for 7 classes"):
        state = collect_state(build_network(model, SHAPE, CLASSES, 0))
    assert torch.equal(state["0.0.weight"], network[0][0].weight)


def test_what_the_package_has_no_place_for_is_refused() -> None:
    prompted = TrainedPart(Prompted(nn.Identity(), 1, 4), nn.Linear(4, 2))
    with pytest.raises(RequestError, match="no place for prompts"):
        collect_state(Network(nn.Sequential(), prompted, {}))
    cosines = TrainedPart(CosineHead(torch.ones(2, 4)))
    with pytest.raises(RequestError, match="nothing was trained"):
        collect_state(Network(nn.Sequential(), cosines, {}))


def test_an_adapter_of_lite0_has_the_names_of_its_package(tmp_path: Path) -> None:
    model = Model("efficientnet_lite0", tune="lora", pixels=32)
    network = build_network(model, SHAPE, CLASSES, 0)
    write_adapter(network.trained, model, tmp_path / "adapter")
    text = (tmp_path / "adapter" / CONFIG).read_text()
    layers = dict(lite0(CLASSES).named_modules())
    names = json.loads(text)
    wanted = [*names["target_modules"], *names["modules_to_save"]]
    assert len(wanted) > 2
    assert all(name in layers for name in wanted)


def test_an_adapter_of_convolutions_that_peft_cannot_make_warns(tmp_path: Path) -> None:
    model = Model("own_nets:padded", tune="lora", blocks="all")
    network = build_network(model, SHAPE, CLASSES, 0)
    with pytest.warns(match="peft cannot read this adapter.*Padded"):
        write_adapter(network.trained, model, tmp_path / "adapter")


def test_a_run_that_changed_frozen_weights_is_exported(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    lora = Model("mlp", tune="lora", rank=2)
    setting = experiment(model=lora, strategy=FedExLoRA())
    runs = tmp_path / "runs"
    assert run(setting, out=runs, controls=False).complete
    (folder,) = (path.parent for path in runs.glob("*/*/*/result.json"))
    refused = tmp_path / "adapter"
    result = CliRunner().invoke(app, ["export", "adapter", str(folder), str(refused)])
    assert "fl-sim export model RUN OUT.safetensors writes" in str(result.exception)
    assert not refused.exists()
    for above in (folder.parent, folder.parents[1]):
        result = CliRunner().invoke(app, ["export", "model", str(above), "x.safetensors"])
        assert f"give the folder of a run: {folder}" in str(result.exception)
    out = tmp_path / "model.safetensors"
    result = CliRunner().invoke(app, ["export", "model", str(folder), str(out)])
    assert result.exit_code == 0, result.exception
    assert set(load_file(out)) == set(build_network(Model("mlp"), (1, 8, 8), 10, 0).tensors)
    start: dict[str, Any] = {"init": "checkpoint", "tune": "head"}
    build_network(Model("mlp", checkpoint=str(out), **start), (1, 8, 8), 10, 0)
    own = str(folder / "model.safetensors")
    with pytest.raises(FieldError, match=rf"model\.checkpoint: .*fl-sim export model {folder} OUT"):
        build_network(Model("mlp", checkpoint=own, **start), (1, 8, 8), 10, 0)
