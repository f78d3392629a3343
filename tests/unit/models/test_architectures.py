"""Networks as sequences of stages: sizes, normalisation, and equality with the originals."""

from typing import Literal

import pytest
import torch
from torch import nn
from torch.nn import functional

from fl_sim.core.errors import FieldError
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.core.vision import torchvision
from fl_sim.experiment import Model
from fl_sim.models.architectures import ARCHITECTURES, NORMS, Normalise, PooledRelu, Residual
from fl_sim.models.tuning import build_network, calibrate

GREY, COLOUR = (1, 28, 28), (3, 32, 32)


def built(name: str, shape: tuple[int, int, int] = GREY, norm: str = "batch") -> nn.Sequential:
    with seed_torch(0, "architecture"):
        return ARCHITECTURES[name](shape, 10, norm).eval()


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def by_hand(norm: str, side: int, channels: int) -> int:
    """Count the parameters of the small network, layer by layer."""
    convolutions = (channels * 9 + 1) * 16 + (16 * 9 + 1) * 32
    norms = 0 if norm == "off" else 2 * (16 + 32)
    return convolutions + norms + (32 * (side // 4) ** 2 + 1) * 64 + (64 + 1) * 10


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [GREY, COLOUR, (1, 8, 8)])
def test_the_small_network_has_the_parameters_of_its_layers(
    norm: str, shape: tuple[int, int, int]
) -> None:
    assert size(built("small_cnn", shape, norm)) == by_hand(norm, shape[1], shape[0])


def test_the_small_network_has_the_size_that_its_docstring_says() -> None:
    assert abs(size(built("small_cnn")) - 106_000) < 500


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mcmahan_cnn", 1_663_370),
        ("tiny_cnn", 28_938),
        ("lenet", 44_426),
        ("mlp", 199_210),
        ("linear", 7_850),
        ("standardised_linear", 7_850),
    ],
)
def test_networks_of_papers_have_the_sizes_of_the_papers(name: str, count: int) -> None:
    assert size(built(name, norm="off")) == count


@pytest.mark.parametrize("name", ["mcmahan_cnn", "tiny_cnn", "lenet"])
def test_pooling_first_is_the_same_network(name: str) -> None:
    """The paper rectifies, then pools."""
    images = torch.rand(3, *GREY, generator=generator(3, "images"))
    model = built(name, norm="off")
    usual = nn.Sequential(*model)
    for i, stage in enumerate(usual):
        if isinstance(stage, PooledRelu):
            usual[i] = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    torch.testing.assert_close(model(images), usual(images), rtol=1e-6, atol=1e-6)


def test_the_linear_network_is_logistic_regression() -> None:
    images = torch.rand(3, *GREY, generator=generator(4, "images"))
    model = built("linear")
    weight, bias = model[-1].weight, model[-1].bias
    torch.testing.assert_close(model(images), (images * 2 - 1).flatten(1) @ weight.T + bias)


def test_pixels_are_standardised_one_by_one() -> None:
    images = torch.rand(512, *GREY, generator=generator(5, "images")) * torch.linspace(0.1, 1, 28)
    published = (255 * images).to(torch.uint8)
    model = Model("standardised_linear", tune="head")
    network = build_network(model, GREY, 10, seed=0)
    calibrate(network.frozen, published)
    images = as_pixels(published)
    flat = images.flatten(1)
    expected = (flat - flat.mean(0)) / flat.std(0)
    # Statistics are means over two batches, so the shift between these is missing from them.
    torch.testing.assert_close(network.frozen(images), expected, rtol=0.02, atol=0.02)
    assert [type(stage) for stage in network.trained] == [nn.Linear]


def test_the_residual_network_has_the_size_of_the_paper() -> None:
    """11.17 M parameters with ten classes, a 3 x 3 stem and colour images."""
    assert size(built("resnet18", COLOUR)) == 11_173_962


def test_resnet9_is_that_of_its_source() -> None:
    """6,573,130 parameters; of other widths, by the products of its layers."""
    assert size(built("resnet9", COLOUR)) == 6_573_130
    for norm, width in (("group", 16), ("batch", 4)):
        narrow = build_network(Model("resnet9", norm=norm, width=width), COLOUR, 10, 0).trained
        convolutions = 27 * width + 9 * width**2 * (2 + 2 * 4 + 8 + 32 + 2 * 64)
        norms, linear = 2 * width * (1 + 3 * 2 + 4 + 3 * 8), (8 * width + 1) * 10
        assert size(narrow) == convolutions + norms + linear


def test_a_residual_adds_its_input() -> None:
    maps = torch.randn(2, 3, 4, 4, generator=generator(0, "maps"))
    doubled = nn.Conv2d(3, 3, 1, groups=3, bias=False)
    nn.init.constant_(doubled.weight, 2)
    torch.testing.assert_close(Residual(doubled)(maps), 3 * maps)


def test_a_width_is_refused_where_it_is_fixed() -> None:
    for name in ("small_cnn", "torchvision:resnet18"):
        with pytest.raises(FieldError, match=f"model.width: None for {name}, whose width is fix"):
            build_network(Model(name, width=8), COLOUR, 10, 0)
    with pytest.raises(FieldError, match="width: between 1 and 512"):
        Model("resnet9", width=0)
    assert Model("resnet9") == Model("resnet9", width=None)


@pytest.mark.parametrize("norm", ["group", "off"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_without_batch_statistics_there_is_nothing_but_parameters(name: str, norm: str) -> None:
    model = built(name, COLOUR, norm)
    assert dict(model.state_dict().items()).keys() == dict(model.named_parameters()).keys()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_group_normalisation_has_the_same_parameters_as_batch_normalisation(name: str) -> None:
    assert size(built(name, COLOUR, "group")) == size(built(name, COLOUR, "batch"))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(1, 8, 8), GREY, COLOUR])
def test_a_network_scores_every_class(name: str, norm: str, shape: tuple[int, int, int]) -> None:
    images = torch.rand(3, *shape, generator=generator(0, "images"))
    assert built(name, shape, norm)(images).shape == (3, 10)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_normalisation_is_the_first_layer(name: str) -> None:
    first = built(name, COLOUR)[0]
    assert isinstance(first, Normalise)
    assert list(first.parameters()) == []
    assert dict(first.state_dict()) == {}


def test_normalising_shifts_and_scales_each_channel() -> None:
    layer = Normalise((0.5, 0.0), (0.25, 2.0))
    images = torch.ones(1, 2, 1, 1)
    assert layer(images).flatten().tolist() == [2.0, 0.5]


def test_pooling_first_is_the_same_function() -> None:
    maps = torch.randn(4, 3, 8, 8, generator=generator(0, "maps"))
    expected = functional.max_pool2d(functional.relu(maps), 2)
    assert torch.equal(PooledRelu()(maps), expected)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
def test_the_layout_in_memory_does_not_change_the_function(layout: torch.memory_format) -> None:
    images = torch.rand(5, *COLOUR, generator=generator(1, "images"))
    model = built("small_cnn", COLOUR)
    expected = model(images)
    model.to(memory_format=layout)
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_residual_network_is_torchvisions_cut_into_stages(
    norm: Literal["batch", "group", "off"],
) -> None:
    images = torch.rand(2, *COLOUR, generator=generator(2, "images"))
    stages = built("resnet18", COLOUR, norm)
    with seed_torch(0, "architecture"):
        whole = torchvision.models.resnet18(num_classes=10, norm_layer=NORMS[norm])
        whole.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        whole.maxpool = nn.Identity()
    torch.testing.assert_close(stages(images), whole.eval()((images - 0.5) / 0.5))
