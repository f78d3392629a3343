"""EfficientNet-Lite0 against the package efficientnet_lite_pytorch: the same bits."""

import contextlib
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fl_sim.core.seeding import generator, seed_torch
from fl_sim.experiment import Model
from fl_sim.models.backbones.efficientnet_lite import LITE0, EfficientNetLite0, Lite0
from fl_sim.models.foundation import build_row

efficientnet_lite_pytorch: Any = pytest.importorskip("efficientnet_lite_pytorch")


class Package(nn.Module):
    """The package's network, without its dropout and drop-connect."""

    def __init__(self) -> None:
        super().__init__()
        with contextlib.redirect_stdout(io.StringIO()):  # the package prints as it loads
            self.network = efficientnet_lite_pytorch.EfficientNet.from_name("efficientnet-lite0")

    def forward(self, images: Tensor) -> Tensor:
        network, relu = self.network, nn.ReLU6()
        maps = relu(network._bn0(network._conv_stem(images)))
        for block in network._blocks:
            maps = block(maps, drop_connect_rate=None)
        maps = relu(network._bn1(network._conv_head(maps)))
        return network._fc(nn.AdaptiveAvgPool2d(1)(maps).flatten(1))  # type: ignore[no-any-return]


def draw_images(side: int, number: int = 2) -> Tensor:
    images = torch.rand(number, 3, side, side, generator=generator(side, "images"))
    return images.contiguous(memory_format=torch.channels_last)


def check_alike(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_random_start_draws_the_numbers_of_the_package() -> None:
    with seed_torch(0, "start"):
        ours, next_of_ours = EfficientNetLite0(), torch.rand(1)
    with seed_torch(0, "start"):
        theirs, next_of_theirs = Package().network, torch.rand(1)
    check_alike(ours.state_dict(), theirs.state_dict())
    assert torch.equal(next_of_ours, next_of_theirs)


@pytest.mark.parametrize("side", [32, 64, 96, 224])
def test_pretrained_outputs_are_those_of_the_package(side: int) -> None:
    row = build_row(Model(LITE0, init="pretrained", pixels=side), 1000).stages.eval()
    theirs = Package().eval()
    theirs.network.load_state_dict(Lite0().read_weights(LITE0))
    images = draw_images(side)
    with torch.no_grad():
        assert torch.equal(row(images), theirs(row[:2](images)))


def test_training_steps_are_those_of_the_package() -> None:
    state = Lite0().read_weights(LITE0)
    networks = EfficientNetLite0(), Package()
    for network, holder in zip(networks, (networks[0], networks[1].network), strict=True):
        holder.load_state_dict(state)
        optimizer = torch.optim.SGD(network.train().parameters(), 0.01)
        for images in draw_images(32, 8).split(4):
            optimizer.zero_grad()
            network(images).square().mean().backward()
            optimizer.step()
    check_alike(networks[0].state_dict(), networks[1].network.state_dict())
