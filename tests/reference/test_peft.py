"""Low-rank changes against peft: one training step, on linear layers, attention, convolutions."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.core.seeding import generator, seed_torch
from fl_sim.core.vision import torchvision
from fl_sim.experiment import Model
from fl_sim.models.adapters import write_adapter
from fl_sim.models.backbones.efficientnet_lite import LITE0, EfficientNetLite0, Lite0
from fl_sim.models.low_rank import add_low_rank, find_low_rank
from fl_sim.models.tuning import build_network

pytestmark = pytest.mark.slow  # peft imports transformers, which takes five seconds
RANK, ALPHA, RATE, CLASSES = 3, 6, 0.5, 7


def tiny_vit() -> nn.Module:
    timm: Any = pytest.importorskip("timm")
    sizes = {"img_size": 16, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3}
    return timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, **sizes)  # type: ignore[no-any-return]


def attention_vit() -> nn.Module:
    sizes = {"image_size": 16, "patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 24}
    network = torchvision.models.VisionTransformer(**sizes, mlp_dim=48, num_classes=CLASSES)
    nn.init.normal_(network.heads.head.weight, std=0.1)  # it starts at zero, and hides all others
    return network  # type: ignore[no-any-return]


def convolutions() -> nn.Module:
    body = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1, bias=False)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(8 * 8 * 8, CLASSES))


# The layers to adapt. peft adapts the output projection of attention together with the input's.
NETWORKS: dict[str, tuple[Any, list[str]]] = {
    "fused projections": (tiny_vit, ["qkv", "proj", "fc1", "fc2"]),
    "attention": (attention_vit, ["self_attention", "mlp.0", "mlp.3"]),
    "convolutions": (convolutions, ["0", "2"]),
}


def with_peft(network: nn.Module, names: list[str], rslora: bool) -> Any:
    peft: Any = pytest.importorskip("peft")
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=names, use_rslora=rslora)
    return peft.get_peft_model(deepcopy(network), config)


def factors_in_peft(model: Any) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """Return peft's factors by the name of the layer in the network."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): (
            module.lora_A["default"].weight,
            module.lora_B["default"].weight,
        )
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and "default" in module.lora_A
    }


def step(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Take one step of gradient descent on all trained parameters."""
    functional.cross_entropy(model(images), labels).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= RATE * parameter.grad


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_gives_the_gradients_and_merged_weights_of_peft(name: str, rslora: bool) -> None:
    make, names = NETWORKS[name]
    with seed_torch(0, name):
        network = make()
        images, labels = torch.randn(5, 3, 16, 16), torch.arange(5)
        ours = deepcopy(network)
        ends = [*names, "out_proj"] if name == "attention" else names
        scaling = ALPHA / (RANK**0.5 if rslora else RANK)
        add_low_rank(ours, RANK, scaling, names=ends)
        for path, layer in find_low_rank(ours).items():
            if not path.endswith("out_proj"):  # see below
                nn.init.normal_(layer.up, std=0.1)
    theirs = with_peft(network, names, rslora)
    found = find_low_rank(ours).items()
    layers = {f"{name}.".replace(".layer.", ".")[:-1]: layer for name, layer in found}
    factors = factors_in_peft(theirs)
    assert sorted(layers) == sorted(factors)
    assert len(layers) >= 2
    with torch.no_grad():
        for layer_name, (down, up) in factors.items():
            down.copy_(layers[layer_name].down.view_as(down))
            up.copy_(layers[layer_name].up.view_as(up))
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-6)
    step(ours, images, labels)
    step(theirs, images, labels)
    for layer_name, (down, up) in factors.items():
        layer = layers[layer_name]
        for own, other in ((layer.down, down), (layer.up, up)):
            assert own.grad is not None
            assert other.grad is not None
            torch.testing.assert_close(own.grad, other.grad.view_as(own), rtol=1e-5, atol=1e-6)
    merged = dict(theirs.merge_and_unload().named_parameters())
    for layer_name, layer in layers.items():
        weight = merged[f"{layer_name}.{layer.weight_name}"]
        if layer_name.endswith("out_proj"):
            # peft 0.21 adds the change of an output projection of attention twice (its pull request
            # 3774), but its gradient once.
            weight = layer.base_weight + (weight - layer.base_weight) / 2
        assert not torch.equal(layer.weight, layer.base_weight)
        torch.testing.assert_close(layer.weight, weight, rtol=0, atol=1e-6)


def test_the_start_is_drawn_from_the_distribution_of_peft() -> None:
    network = nn.Sequential(nn.Linear(40, 30), nn.Conv2d(10, 30, 2))
    with seed_torch(0, "start"):
        theirs = factors_in_peft(with_peft(network, ["0", "1"], rslora=False))
        ours = deepcopy(network)
        add_low_rank(ours, RANK)
    for name, layer in find_low_rank(ours).items():
        down, up = theirs[name]
        assert not up.any()
        assert not layer.up.any()
        bounds = [float(factor.detach().abs().max()) for factor in (down, layer.down)]
        assert bounds == pytest.approx([40**-0.5] * 2, rel=0.1)
        assert max(bounds) <= 40**-0.5


@pytest.fixture
def start(tmp_path: Path) -> tuple[nn.Module, Model]:
    """Return a network of timm, and the model that starts from its weights."""
    timm: Any = pytest.importorskip("timm")
    with seed_torch(0, "start"):
        network = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=CLASSES)
    path = tmp_path / "start.safetensors"
    save_file(network.state_dict(), path)
    fields: dict[str, Any] = {"pixels": 32, "blocks": "all", "rank": RANK, "alpha": float(ALPHA)}
    origin: dict[str, Any] = {"init": "checkpoint", "checkpoint": str(path)}
    return network, Model("timm:vit_tiny_patch16_224", tune="lora", **fields, **origin)


def test_peft_attaches_an_adapter_file_to_the_network_of_timm(
    start: tuple[nn.Module, Model], tmp_path: Path
) -> None:
    peft: Any = pytest.importorskip("peft")
    network, model = start
    ours = build_network(model, (3, 32, 32), CLASSES, 0)
    with seed_torch(0, "changes"), torch.no_grad():
        for layer in find_low_rank(ours.trained).values():
            layer.up.normal_(std=0.1)
        ours.trained[-1].weight.normal_()
        images = torch.rand(3, 3, 32, 32)
    write_adapter(ours.trained, model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(deepcopy(network), tmp_path)
    inputs = ours.frozen[:2](images)  # scaled and normalised
    with torch.no_grad():
        output, plain = ours.trained.eval()(ours.frozen(images)), network.eval()(inputs)
        torch.testing.assert_close(output, theirs.eval()(inputs), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(output, plain, atol=0.1)


def test_peft_reads_an_adapter_of_lite0(tmp_path: Path) -> None:
    peft: Any = pytest.importorskip("peft")
    model = Model("efficientnet_lite0", "pretrained", "lora", pixels=32, rank=RANK, blocks=3)
    ours = build_network(model, (3, 32, 32), 1000, 0)
    images = torch.rand(3, 3, 32, 32, generator=generator(0, "images"))
    network = EfficientNetLite0()
    network.load_state_dict(Lite0().read_weights(LITE0))
    with torch.no_grad():
        for layer in find_low_rank(ours.trained).values():
            layer.up.normal_(std=0.1)
    write_adapter(ours.trained, model, tmp_path)
    inputs = ours.frozen[:2](images)
    with torch.no_grad():
        plain = network.eval()(inputs)
        theirs = peft.PeftModel.from_pretrained(network, tmp_path).eval()(inputs)
        output = ours.trained.eval()(ours.frozen(images))
    torch.testing.assert_close(output, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(output, plain, atol=0.1)


def test_a_model_starts_from_an_adapter_that_peft_wrote(
    start: tuple[nn.Module, Model], tmp_path: Path
) -> None:
    network, model = start
    theirs = with_peft(network, ["qkv", "blocks.11.mlp.fc2"], rslora=False)
    with torch.no_grad():
        for _, up in factors_in_peft(theirs).values():
            up.normal_(std=0.1)
    theirs.save_pretrained(tmp_path / "peft")
    some = replace(model, adapter=str(tmp_path / "peft"), lora_layers=("qkv", "blocks.11.mlp.fc2"))
    ours = build_network(some, (3, 32, 32), CLASSES, 0)
    images = torch.rand(3, 3, 32, 32, generator=generator(0, "images"))
    with torch.no_grad():
        wanted = theirs.eval()(ours.frozen[:2](images))
        torch.testing.assert_close(ours.trained.eval()(ours.frozen(images)), wanted)
