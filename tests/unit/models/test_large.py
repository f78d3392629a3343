"""Large networks: sizes, normalisation, and equality with the originals."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from fl_sim.core.seeding import generator, seed_torch
from fl_sim.core.vision import torchvision
from fl_sim.models.architectures import NORMS, Normalise
from fl_sim.models.large import LARGE, WideBlock

SIZES = {
    "cifar_vgg16": 14_728_266,
    "cifar_resnet50": 23_520_842,
    "cifar_densenet121": 6_956_426,
    "wrn34_10": 46_160_474,
}
every_one = pytest.mark.parametrize("name", LARGE)


def built(name: str, channels: int = 3, norm: str = "batch") -> nn.Sequential:
    with seed_torch(0, "large"):
        return LARGE[name]((channels, 32, 32), 10, norm).eval()


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@every_one
def test_sizes_are_those_of_the_usual_networks_for_small_colour_images(name: str) -> None:
    with torch.device("meta"):
        model = LARGE[name]((3, 32, 32), 10, "batch")
    assert size(model) == SIZES[name]


def test_a_narrow_network_has_the_layers_of_the_usual_one_and_fewer_maps() -> None:
    """Of WideResNet-34-1 the number of parameters, by the products of its layers."""
    with torch.device("meta"):
        narrow, usual = (LARGE["cifar_vgg16"]((3, 32, 32), 10, "batch", w) for w in (16, 64))
        wide = LARGE["wrn34_10"]((3, 32, 32), 10, "batch", 16)
        dense = LARGE["cifar_densenet121"]((3, 32, 32), 10, "batch", 12)
    assert narrow.state_dict().keys() == usual.state_dict().keys()
    assert narrow[-1].in_features == 128  # a quarter of 512
    assert size(wide) == count_wide_resnet(16)
    assert dense[-1].in_features == 192  # 3/16 of 1,024, as 12 is of 64


def count_wide_resnet(width: int) -> int:
    """Return the number of parameters of a WideResNet-34, by the products of its layers."""
    maps = [16] + [factor * width for factor in (1, 2, 4) for _ in range(5)]
    total = 9 * 3 * 16 + 2 * maps[-1] + (maps[-1] + 1) * 10
    for number, (before, after) in enumerate(pairwise(maps)):
        total += 9 * before * after + 9 * after * after + 2 * (before + after)
        total += before * after * (before != after or number in (5, 10))
    return total


@pytest.mark.parametrize("norm", ["group", "off"])
@every_one
def test_without_batch_statistics_there_is_nothing_but_parameters(name: str, norm: str) -> None:
    with torch.device("meta"):
        model = LARGE[name]((3, 32, 32), 10, norm)
    assert model.state_dict().keys() == dict(model.named_parameters()).keys()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert isinstance(model[0], Normalise)


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
@every_one
def test_a_network_scores_every_class(name: str, norm: str, shape: tuple[int, int, int]) -> None:
    with seed_torch(0, "large"):
        model = LARGE[name](shape, 10, norm).eval()
    images = torch.rand(2, *shape, generator=generator(0, "images"))
    assert model(images).shape == (2, 10)


def test_the_dense_network_is_torchvisions_cut_into_stages() -> None:
    images = torch.rand(2, 3, 16, 16, generator=generator(2, "images"))
    stages = built("cifar_densenet121")
    with seed_torch(0, "large"):
        whole = torchvision.models.densenet121(num_classes=10)
    first = whole.features.denseblock1.denselayer1.conv1.weight.clone()
    whole.features.conv0 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    whole.features.pool0 = nn.Identity()
    ours, theirs = list(stages.state_dict().values()), whole.state_dict()
    whole.load_state_dict(dict(zip(theirs, ours, strict=True)))
    assert torch.equal(first, whole.features.denseblock1.denselayer1.conv1.weight)  # same draws
    torch.testing.assert_close(stages(images), whole.eval()((images - 0.5) / 0.5))


@pytest.mark.parametrize(("channels", "stride"), [(16, 1), (16, 2), (32, 1)])
def test_a_wide_block_is_its_formula(channels: int, stride: int) -> None:
    with seed_torch(0, "block"):
        block = WideBlock(channels, 32, stride, "off")
    maps = torch.randn(2, channels, 8, 8, generator=generator(0, "maps"))
    active = functional.relu(maps)
    inner = functional.conv2d(active, block.first.weight, stride=stride, padding=1)
    inner = functional.conv2d(functional.relu(inner), block.second.weight, padding=1)
    if channels == 32 and stride == 1:
        beside = maps
    else:
        assert block.shortcut is not None
        beside = functional.conv2d(active, block.shortcut.weight, stride=stride)
    torch.testing.assert_close(block(maps), inner + beside)
