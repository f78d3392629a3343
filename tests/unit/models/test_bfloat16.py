"""Forward passes in bfloat16 against those in single precision."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from fl_sim import Model
from fl_sim.core.literals import Precision
from fl_sim.models.bfloat16 import DepthwiseConvolution, call_in_bfloat16
from fl_sim.models.tuning import TrainedPart, build_network

UNIT = 2**-8  # relative rounding error of bfloat16


def compute_gradients(precision: Precision) -> list[torch.Tensor]:
    """Return the logits, the gradient by the images, and those by the parameters."""
    network = build_network(Model("lenet", norm="group"), (3, 16, 16), 5, seed=0).trained
    network.precision = precision
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(16, 3, 16, 16, generator=rng).requires_grad_()
    logits = network(images)
    loss = functional.cross_entropy(logits, torch.arange(16) % 5)
    return [logits, *torch.autograd.grad(loss, [images, *network.parameters()])]


def test_only_what_is_inside_a_network_is_rounded() -> None:
    for own, expected in zip(compute_gradients("bf16"), compute_gradients("float32"), strict=True):
        assert own.dtype == torch.float32
        error = float((own - expected).detach().norm() / expected.detach().norm())
        assert 0 < error < 64 * UNIT  # near ties, pooling and ReLU take another way


def test_single_precision_gives_the_bits_of_a_sequence_of_stages() -> None:
    network = build_network(Model("tiny_cnn", norm="off"), (1, 8, 8), 3, seed=0).trained
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(network(images), nn.Sequential(*network)(images))


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (7, 5), (3, 5)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
@pytest.mark.parametrize("sides", [(11, 9), (2, 2), (1, 4)])
def test_depthwise_convolutions_have_the_gradients_of_autograd(
    kernel: tuple[int, int], stride: tuple[int, int], sides: tuple[int, int]
) -> None:
    rng = torch.Generator().manual_seed(0)
    maps = torch.randn(4, 8, *sides, generator=rng).bfloat16()
    weight = torch.randn(8, 1, *kernel, generator=rng).bfloat16()
    padding = (kernel[0] // 2, kernel[1] // 2)
    found, expected = [], []
    for dtype, results in ((torch.bfloat16, found), (torch.float32, expected)):
        own = maps.to(dtype, copy=True).requires_grad_(), weight.to(dtype, copy=True)
        own[1].requires_grad_()
        if dtype == torch.bfloat16:
            outputs = DepthwiseConvolution.apply(*own, stride, padding)  # type: ignore[no-untyped-call]
        else:
            outputs = functional.conv2d(*own, None, stride, padding, 1, 8)
        slope = torch.linspace(-1, 1, outputs.numel()).view_as(outputs).bfloat16().to(dtype)
        results += [outputs, *torch.autograd.grad(outputs, own, slope)]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.bfloat16
        error = (one.float() - other).detach().norm() / other.detach().norm()
        assert float(error) < 2 * UNIT


def test_depthwise_layers_of_a_network_are_replaced() -> None:
    layer = nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False)
    seen: list[str] = []

    def call(maps: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = layer(maps)
        seen.append(type(outputs.grad_fn).__name__)
        return outputs

    call_in_bfloat16(call, torch.rand(2, 4, 6, 6))
    assert seen == ["DepthwiseConvolutionBackward"]


def test_the_precision_of_a_network_is_copied_with_it() -> None:
    network = TrainedPart(nn.Linear(4, 3))
    network.precision = "bf16"

    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert twin.precision == "bf16"
