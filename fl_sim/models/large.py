"""Large networks from papers on unlearnable examples, with stems for small images."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fl_sim.models.architectures import NORMS, Architecture, centre_pixels, resnet_stages

VGG16 = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # maps over `width`, convolutions, per block
WIDE_GROUPS = (1, 2, 4)  # maps over `width` of the groups of a WideResNet
BLOCKS = 5  # (34 - 4) / 6


def cifar_vgg16(
    image_shape: tuple[int, int, int], num_classes: int, norm: str, width: int = 64
) -> nn.Sequential:
    """Return VGG-16 with normalisation and one linear layer: 14.7 M parameters.

    Its first maps are `width`. Simonyan and Zisserman (2015), https://arxiv.org/abs/1409.1556,
    configuration D. Images below 32 pixels are pooled less often, down to maps of one pixel.
    """
    channels, side = image_shape[0], min(image_shape[1:])
    stages: list[nn.Module] = [centre_pixels(channels)]
    for factor, convolutions in VGG16:
        for _ in range(convolutions):
            maps = factor * width
            stages += [_make_convolution(channels, maps, bias=True), NORMS[norm](maps), nn.ReLU()]
            channels = maps
        if side >= 2:
            stages.append(nn.MaxPool2d(2))
            side //= 2
    return nn.Sequential(*stages, *_make_head(channels, num_classes))


def cifar_resnet50(image_shape: tuple[int, int, int], num_classes: int, norm: str) -> nn.Sequential:
    """Return ResNet-50 with a stem of one 3 x 3 convolution and no pooling: 23.5 M parameters.

    He et al. (2016), https://arxiv.org/abs/1512.03385.
    """
    from fl_sim.core.vision import torchvision  # a second to import, which most runs do not need

    network = torchvision.models.resnet50(num_classes=num_classes, norm_layer=NORMS[norm])
    network.conv1 = _make_convolution(image_shape[0], 64)
    network.maxpool = nn.Identity()
    return nn.Sequential(centre_pixels(image_shape[0]), *resnet_stages(network))


def cifar_densenet121(
    image_shape: tuple[int, int, int], num_classes: int, norm: str, width: int = 64
) -> nn.Sequential:
    """Return DenseNet-121 with a stem of one 3 x 3 convolution and no pooling: 7.0 M parameters.

    Its first maps are `width`, rounded down to an even number of at least 2, and every layer adds
    half as many.
    Huang et al. (2017), https://arxiv.org/abs/1608.06993.
    """
    from fl_sim.core.vision import torchvision

    growth = max(1, width // 2)
    features = torchvision.models.DenseNet(
        growth, num_init_features=2 * growth, num_classes=num_classes
    ).features
    features.conv0 = _make_convolution(image_shape[0], 2 * growth)
    features.pool0 = nn.Identity()
    last = features.norm5.num_features
    if norm != "batch":
        _replace_norms(features, NORMS[norm])
    body = [*features.children(), nn.ReLU()]
    return nn.Sequential(centre_pixels(image_shape[0]), *body, *_make_head(last, num_classes))


def wrn34_10(
    image_shape: tuple[int, int, int], num_classes: int, norm: str, width: int = 160
) -> nn.Sequential:
    """Return WideResNet-34-10, the usual network of adversarial training: 46 M parameters.

    The maps of its first group are `width`; with 16 it is WideResNet-34-1. Zagoruyko and
    Komodakis (2016), https://arxiv.org/abs/1605.07146.
    """
    channels = image_shape[0]
    stages: list[nn.Module] = [centre_pixels(channels), _make_convolution(channels, 16)]
    channels = 16
    for group, factor in enumerate(WIDE_GROUPS):
        for block in range(BLOCKS):
            stride = 2 if group > 0 and block == 0 else 1
            stages.append(WideBlock(channels, factor * width, stride, norm))
            channels = factor * width
    last = [NORMS[norm](channels), nn.ReLU()]
    return nn.Sequential(*stages, *last, *_make_head(channels, num_classes))


class WideBlock(nn.Module):
    """Two 3 x 3 convolutions, each after normalisation and ReLU, beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, norm: str) -> None:
        super().__init__()
        self.first_norm, self.second_norm = NORMS[norm](channels), NORMS[norm](width)
        self.first = _make_convolution(channels, width, stride)
        self.second = _make_convolution(width, width)
        alike = channels == width and stride == 1
        self.shortcut = None if alike else nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Return the sum of both paths; a shortcut that changes the width starts after the ReLU."""
        active = torch.relu(self.first_norm(maps))
        shortcut = maps if self.shortcut is None else self.shortcut(active)
        inner: Tensor = self.second(torch.relu(self.second_norm(self.first(active))))
        return inner + shortcut


def _make_convolution(channels: int, width: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, stride, padding=1, bias=bias)


def _make_head(width: int, num_classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)]


def _replace_norms(module: nn.Module, norm: Callable[[int], nn.Module]) -> None:
    """Replace every batch normalisation by another normalisation."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, norm(child.num_features))
        else:
            _replace_norms(child, norm)


LARGE: dict[str, Architecture] = {
    f.__name__: f for f in (cifar_vgg16, cifar_resnet50, cifar_densenet121, wrn34_10)
}
