"""Networks as a sequence of stages: normalisation first, classifier last.

A sequence can be cut anywhere, so that the output of its frozen front can be cached.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

NUM_GROUPS = 8  # of group normalisation, or fewer if this does not divide the width


class Normalise(nn.Module):
    """Shifts and scales pixels of [0, 1]: the first stage, so that radii keep their meaning."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return (images - mean) / std."""
        return (images - self.mean) / self.std


def to_channels_last(network: nn.Sequential) -> nn.Sequential:
    """Return the network with its weights laid out channels last, which is faster on a CPU."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class PooledRelu(nn.Module):
    """Max-pooling, then ReLU: equal to ReLU, then max-pooling, on a quarter of the data."""

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Return the pooled, rectified maps."""
        return functional.relu(functional.max_pool2d(maps, 2))


def small_cnn(image_shape: tuple[int, int, int], num_classes: int, norm: str) -> nn.Sequential:
    """Return two 3 x 3 convolutions (16 and 32 maps) and two linear layers.

    About 106,000 parameters on 28 x 28 grey images, whatever the normalisation.
    """
    channels, height, width = image_shape
    return nn.Sequential(
        centre_pixels(channels),
        nn.Conv2d(channels, 16, 3, padding=1),
        NORMS[norm](16),
        PooledRelu(),
        nn.Conv2d(16, 32, 3, padding=1),
        NORMS[norm](32),
        PooledRelu(),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), 64),
        nn.ReLU(),
        nn.Linear(64, num_classes),
    )


def mcmahan_cnn(image_shape: tuple[int, int, int], num_classes: int, norm: str) -> nn.Sequential:
    """Return the convolutional network of the paper that named federated averaging.

    Two 5 x 5 convolutions (32 and 64 maps) and two linear layers: 1,663,370 parameters on
    28 x 28 grey images with ten classes and without normalisation.
    McMahan et al. (2017), https://arxiv.org/abs/1602.05629, section 3.
    """
    return _build_convolutional(image_shape, num_classes, norm, widths=(32, 64), hidden=512)


def tiny_cnn(image_shape: tuple[int, int, int], num_classes: int, norm: str) -> nn.Sequential:
    """Return two 5 x 5 convolutions (16 and 32 maps) and one linear layer.

    28,938 parameters on 28 x 28 grey images with ten classes and without normalisation.
    """
    return _build_convolutional(image_shape, num_classes, norm, widths=(16, 32), hidden=None)


def mlp(image_shape: tuple[int, int, int], num_classes: int, norm: str) -> nn.Sequential:
    """Return two hidden layers of 200 units, the 2NN of McMahan et al. (2017), section 3.

    199,210 parameters on 28 x 28 grey images with ten classes; it has nothing to normalise.
    """
    pixels = math.prod(image_shape)
    return nn.Sequential(
        centre_pixels(image_shape[0]),
        nn.Flatten(),
        nn.Linear(pixels, 200),
        nn.ReLU(),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, num_classes),
    )


def fc(image_shape: tuple[int, int, int], num_classes: int, norm: str) -> nn.Sequential:
    """Return one hidden layer of 100 units, the fully connected network of ByzFL's benchmark.

    79,510 parameters on 28 x 28 grey images with ten classes; it has nothing to normalise.
    ByzFL (2025), https://arxiv.org/abs/2505.24802, with pixels centred first, as everywhere here.
    """
    pixels = math.prod(image_shape)
    return nn.Sequential(
        centre_pixels(image_shape[0]),
        nn.Flatten(),
        nn.Linear(pixels, 100),
        nn.ReLU(),
        nn.Linear(100, num_classes),
    )


def linear(image_shape: tuple[int, int, int], num_classes: int, norm: str) -> nn.Sequential:
    """Return logistic regression on the pixels; it has nothing to normalise.

    7,850 parameters on 28 x 28 grey images with ten classes.
    """
    pixels = math.prod(image_shape)
    return nn.Sequential(
        centre_pixels(image_shape[0]), nn.Flatten(), nn.Linear(pixels, num_classes)
    )


def standardised_linear(
    image_shape: tuple[int, int, int], num_classes: int, norm: str
) -> nn.Sequential:
    """Return logistic regression on pixels of mean 0 and deviation 1, each by itself.

    For `norm="batch"` and `tune="head"`: the statistics of the pixels are then computed once, on
    some of the training images, and frozen. 7,850 parameters on 28 x 28 grey images with ten
    classes.
    """
    pixels = math.prod(image_shape)
    return nn.Sequential(
        centre_pixels(image_shape[0]),
        nn.Flatten(),
        nn.Unflatten(1, (pixels, 1, 1)),
        nn.BatchNorm2d(pixels, affine=False) if norm == "batch" else nn.Identity(),
        nn.Flatten(),
        nn.Linear(pixels, num_classes),
    )


def lenet(image_shape: tuple[int, int, int], num_classes: int, norm: str) -> nn.Sequential:
    """Return two 5 x 5 convolutions (6 and 16 maps) and three linear layers (120 and 84 units).

    44,426 parameters on 28 x 28 grey images with ten classes and without normalisation. It is
    the network of NIID-Bench, Li et al. (2022), https://arxiv.org/abs/2102.02079, after LeNet-5,
    with pixels centred first, as everywhere here. Images below 16 pixels are padded to that.
    """
    channels, height, width = image_shape
    padding = max(0, (17 - min(height, width)) // 2)
    sides = [((side + 2 * padding - 4) // 2 - 4) // 2 for side in (height, width)]
    return nn.Sequential(
        centre_pixels(channels),
        nn.Conv2d(channels, 6, 5, padding=padding),
        NORMS[norm](6),
        PooledRelu(),
        nn.Conv2d(6, 16, 5),
        NORMS[norm](16),
        PooledRelu(),
        nn.Flatten(),
        nn.Linear(16 * math.prod(sides), 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, num_classes),
    )


def resnet18(image_shape: tuple[int, int, int], num_classes: int, norm: str) -> nn.Sequential:
    """Return ResNet-18 with the stem for small images: one 3 x 3 convolution, no pooling.

    He et al. (2016), https://arxiv.org/abs/1512.03385, section 4.2.
    """
    from fl_sim.core.vision import torchvision  # a second to import, which most runs do not need

    network = torchvision.models.resnet18(num_classes=num_classes, norm_layer=NORMS[norm])
    network.conv1 = nn.Conv2d(image_shape[0], 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return nn.Sequential(centre_pixels(image_shape[0]), *resnet_stages(network))


class Residual(nn.Sequential):
    """Adds its input to the output of its layers."""

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return maps + layers(maps)."""
        inner = maps
        for layer in self:
            inner = layer(inner)
        return maps + inner


def resnet9(
    image_shape: tuple[int, int, int], num_classes: int, norm: str, width: int = 64
) -> nn.Sequential:
    """Return ResNet-9: eight 3 x 3 convolutions and a linear layer, 6.57 M parameters.

    Its maps are `width`, then two, four and eight times as many. A width of 16 has 0.41 M
    parameters, and suits a CPU.
    Page (2018), "How to train your ResNet", section 4, with plain logits: there they are scaled
    by 1/8.
    """

    def convolve(channels: int, maps: int, activation: nn.Module) -> list[nn.Module]:
        convolution = nn.Conv2d(channels, maps, 3, padding=1, bias=False)
        return [convolution, NORMS[norm](maps), activation]

    def add_residual(maps: int) -> Residual:
        return Residual(*convolve(maps, maps, nn.ReLU()), *convolve(maps, maps, nn.ReLU()))

    return nn.Sequential(
        centre_pixels(image_shape[0]),
        *convolve(image_shape[0], width, nn.ReLU()),
        *convolve(width, 2 * width, PooledRelu()),
        add_residual(2 * width),
        *convolve(2 * width, 4 * width, PooledRelu()),
        *convolve(4 * width, 8 * width, PooledRelu()),
        add_residual(8 * width),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * width, num_classes),
    )


def group_norm(width: int) -> nn.GroupNorm:
    """Return group normalisation over `width` maps. Wu and He (2018), arXiv 1803.08494."""
    return nn.GroupNorm(math.gcd(NUM_GROUPS, width), width)


def resnet_stages(network: nn.Module) -> list[nn.Module]:
    """Return the stages of a torchvision ResNet, in the order of its forward pass."""
    stages: list[nn.Module] = []
    for name, child in network.named_children():
        if name == "fc":
            stages.append(nn.Flatten())
        stages.extend(child.children() if isinstance(child, nn.Sequential) else [child])
    return stages


def _build_convolutional(
    image_shape: tuple[int, int, int],
    num_classes: int,
    norm: str,
    widths: tuple[int, int],
    hidden: int | None,
) -> nn.Sequential:
    """Return two padded 5 x 5 convolutions, pooled by two, and one or two linear layers."""
    channels, height, width = image_shape
    first, second = widths
    size = second * (height // 4) * (width // 4)
    return nn.Sequential(
        centre_pixels(channels),
        nn.Conv2d(channels, first, 5, padding=2),
        NORMS[norm](first),
        PooledRelu(),
        nn.Conv2d(first, second, 5, padding=2),
        NORMS[norm](second),
        PooledRelu(),
        nn.Flatten(),
        *([] if hidden is None else [nn.Linear(size, hidden), nn.ReLU()]),
        nn.Linear(size if hidden is None else hidden, num_classes),
    )


def centre_pixels(channels: int) -> Normalise:
    """Return a first stage that maps pixels from [0, 1] to [-1, 1]."""
    return Normalise((0.5,) * channels, (0.5,) * channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": group_norm,
    "off": nn.Identity,  # ignores the width that it is given
}
Architecture = Callable[..., nn.Sequential]  # of (image_shape, num_classes, norm)
ARCHITECTURES: dict[str, Architecture] = {
    f.__name__: f
    for f in (
        small_cnn,
        tiny_cnn,
        mcmahan_cnn,
        lenet,
        resnet9,
        resnet18,
        mlp,
        fc,
        linear,
        standardised_linear,
    )
}
