"""Low-rank changes of layers: equal to the layer with the adapted weight, and nothing more."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from fl_sim.core.errors import FieldError
from fl_sim.core.seeding import seed_torch
from fl_sim.experiment import Model
from fl_sim.models.low_rank import LowRank, LowRankAttention, add_low_rank, find_low_rank
from fl_sim.models.tuning import build_network


class Padded(nn.Conv2d):
    """A convolution with a forward pass of its own."""

    def forward(self, maps: Tensor) -> Tensor:
        return functional.conv2d(functional.pad(maps, (1, 0, 1, 0)), self.weight, self.bias)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (4, 6)),
    "linear without bias": (lambda: nn.Linear(6, 5, bias=False), (2, 3, 6)),
    "convolution": (lambda: nn.Conv2d(3, 5, 3, stride=2, padding=1, dilation=2), (2, 3, 9, 9)),
    "circular padding": (
        lambda: nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"),
        (2, 3, 6, 6),
    ),
    "own forward pass": (lambda: Padded(3, 5, 2), (2, 3, 6, 6)),
}


def adapted(module: nn.Module, **options: Any) -> nn.Module:
    """Return a copy with low-rank changes whose second factors are not zero."""
    holder = nn.Sequential(deepcopy(module))
    with seed_torch(0, "changes"):
        add_low_rank(holder, 2, **options)
        for layer in find_low_rank(holder).values():
            nn.init.normal_(layer.up)
    return holder[0]


def with_weights(plain: nn.Module, layer: nn.Module) -> nn.Module:
    """Return a copy of a plain layer with the adapted weights of another."""
    merged: Any = deepcopy(plain)
    with torch.no_grad():
        if isinstance(merged, nn.MultiheadAttention):
            merged.in_proj_weight.copy_(layer.in_proj_weight)
            merged.out_proj.weight.copy_(layer.out_proj.weight)
        else:
            merged.weight.copy_(layer.weight)
    return merged  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_those_of_the_adapted_weight(name: str) -> None:
    make, shape = LAYERS[name]
    with seed_torch(0, name):
        plain, inputs = make().double(), torch.randn(*shape).double()
    layer: Any = adapted(plain, scaling=1.5)
    base, change = plain.weight, layer.up @ layer.down
    torch.testing.assert_close(layer.weight, base + 1.5 * change.view_as(base))
    seen = inputs.clone().requires_grad_(True)
    output, wanted = layer(seen), with_weights(plain, layer)(inputs)
    torch.testing.assert_close(output, wanted)
    slope = torch.linspace(-1, 1, output.numel()).double().view_as(output)
    merged = with_weights(plain, layer)
    back = inputs.clone().requires_grad_(True)
    of_weight, of_inputs = torch.autograd.grad(merged(back), [merged.weight, back], slope)
    of_down, of_up, through = torch.autograd.grad(output, [layer.down, layer.up, seen], slope)
    flat = of_weight.flatten(1)
    torch.testing.assert_close(through, of_inputs)
    torch.testing.assert_close(of_up, 1.5 * flat @ layer.down.T)
    torch.testing.assert_close(of_down, 1.5 * layer.up.T @ flat)


def test_the_gradient_costs_products_of_the_rank_alone() -> None:
    """The change is computed from activations, so that no gradient of the weight is computed."""
    layer: Any = adapted(nn.Linear(64, 48))
    output = layer(torch.randn(30, 64)).sum()
    with FlopCounterMode(display=False) as counter:
        output.backward()
    rank = len(layer.down)
    products = 30 * rank * 48 + 30 * rank * 48 + 30 * rank * 64  # of B, of the rank, of A
    assert counter.get_total_flops() == 2 * products
    assert layer.layer.weight.grad is None


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("way", ["bare", "weights", "mask", "other keys"])
def test_attention_is_that_of_the_adapted_weights(way: str, batch_first: bool) -> None:
    with seed_torch(0, "attention"):
        plain = nn.MultiheadAttention(8, 2, batch_first=batch_first).double()
        tokens, other = torch.randn(2, 3, 5, 8).double()
        if not batch_first:
            tokens, other = tokens.transpose(0, 1), other.transpose(0, 1)
    layer: Any = adapted(plain, scaling=0.5)
    assert isinstance(layer, LowRankAttention)
    assert isinstance(layer.out_proj, LowRank)
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
    options: dict[str, Any] = {
        "bare": {"need_weights": False},
        "weights": {},
        "mask": {"need_weights": False, "attn_mask": mask},
        "other keys": {"need_weights": False},
    }[way]
    keys = other if way == "other keys" else tokens
    output, weights = layer(tokens, keys, keys, **options)
    wanted, wanted_weights = with_weights(plain, layer)(tokens, keys, keys, **options)
    torch.testing.assert_close(output, wanted)
    assert (weights is None) == (wanted_weights is None)
    parameters = [layer.down, layer.up, layer.out_proj.down, layer.out_proj.up]
    assert all(bool(g.any()) for g in torch.autograd.grad(output.square().sum(), parameters))


def test_an_encoder_layer_that_reads_weights_itself_gets_the_adapted_ones() -> None:
    """PyTorch's encoder has a fused path in evaluation mode, which calls none of its layers."""
    with seed_torch(0, "encoder"):
        plain = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        tokens = torch.randn(3, 5, 8)
    layer = adapted(plain).eval()
    one_by_one = layer(tokens)  # gradients are recorded, hence not fused
    with torch.no_grad():
        torch.testing.assert_close(layer(tokens), one_by_one)
    assert not torch.allclose(one_by_one, plain.eval()(tokens), atol=1e-3)


def test_the_change_starts_at_zero_and_is_drawn_as_a_layer_is() -> None:
    with seed_torch(0, "start"):
        layer = LowRank(nn.Conv2d(50, 8, 2), 4)
    assert not layer.up.any()
    bound = (50 * 2 * 2) ** -0.5  # of kaiming_uniform_ with a = sqrt(5)
    assert 0.9 * bound < float(layer.down.detach().abs().max()) <= bound


def test_layers_are_chosen_by_the_ends_of_their_names() -> None:
    def chosen(*names: str) -> list[str]:
        block = nn.ModuleDict({"fc": nn.Linear(2, 2), "attn_fc": nn.Linear(2, 2)})
        module = nn.Sequential(block, nn.Linear(2, 2), nn.Conv2d(2, 4, 1, groups=2))
        add_low_rank(module, 1, names=names)
        return list(find_low_rank(module))

    assert chosen() == ["0.fc", "0.attn_fc", "1"]
    assert chosen("fc") == ["0.fc"]
    assert chosen("0.attn_fc", "1") == ["0.attn_fc", "1"]


@pytest.mark.parametrize(
    ("fields", "scaling"),
    [({}, 1.0), ({"alpha": 16.0}, 2.0), ({"alpha": 16.0, "use_rslora": True}, 16 / 8**0.5)],
)
def test_the_scaling_is_that_of_the_model(fields: dict[str, Any], scaling: float) -> None:
    trained = build_network(Model("mlp", tune="lora", rank=8, **fields), (1, 8, 8), 10, 0).trained
    assert [layer.scaling for layer in find_low_rank(trained).values()] == [scaling]


def test_a_frozen_first_factor_is_neither_trained_nor_sent() -> None:
    both, up = (
        build_network(Model("mlp", tune="lora", lora_train=train), (1, 8, 8), 10, 0).trained
        for train in ("both", "up")
    )
    names = {name for name, parameter in up.named_parameters() if parameter.requires_grad}
    assert names == {"0.up"} | {f"{len(up) - 1}.{name}" for name in ("weight", "bias")}
    assert torch.equal(up[0].down, both[0].down)
    assert bool(up[0].down.any())


def test_names_that_no_layer_has_are_refused() -> None:
    for names in (("qkv",), ("qkv", "4")):
        with pytest.raises(FieldError, match=r"model.lora_layers: .* such as (\d|, )+; got"):
            build_network(Model("mlp", tune="lora", lora_layers=names), (1, 8, 8), 10, 0)
    with pytest.raises(FieldError, match="alpha"):
        Model(alpha=0.0)
