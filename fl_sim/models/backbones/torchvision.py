"""The classification networks of torchvision."""

import re
import warnings
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from fl_sim.models.backbones import PIXELS, Backbone, BackboneSource, Request, State, start_from
from fl_sim.models.stages import find_head

FIXED = ("vit_", "swin_", "maxvit_")  # networks whose inputs have the side of pretraining
OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)")  # as in files of DenseNets


class Torchvision(BackboneSource):
    """torchvision's networks."""

    name = "torchvision"
    text = "A network of torchvision."
    example = "mobilenet_v3_small"

    def list_networks(self) -> list[str]:
        """Return the names of the classification networks."""
        return _list_networks()

    def build(self, request: Request) -> Backbone:
        """Return a network of torchvision with a new head, or that of a checkpoint."""
        from fl_sim.core.vision import torchvision  # a second to import

        name, state = request.name, request.state
        preset = self._find_entry(name).transforms()
        native = preset.crop_size[0] if name.startswith(FIXED) else PIXELS
        side = request.pixels or native
        options: dict[str, Any] = {}
        if name.startswith("vit_") and side != native:
            options["image_size"] = side
        elif name.startswith("maxvit_") and side != native:
            options["input_size"] = (side, side)
        with warnings.catch_warnings(action="ignore"):  # about slow initialisation
            network = torchvision.models.get_model(name, weights=None, **options)
        if state is not None:
            state = {OLD_NAME.sub(r"\1\2", key): value for key, value in state.items()}
            if name.startswith("vit_"):
                state = _resize_positions(state, side, network)
            if hasattr(
                network, "transform_input"
            ):  # undoes ImageNet's mean in GoogLeNet, Inception
                network.transform_input = True
        head = find_head(network)
        is_new = start_from(network, head, request.num_classes, state)
        return Backbone(network, head, is_new, side, tuple(preset.mean), tuple(preset.std))

    def find_weights(self, network: str) -> Path:
        """Return the path at which torchvision keeps the weights."""
        file_name = self._find_entry(network).url.rsplit("/", 1)[1]
        return Path(str(torch.hub.get_dir())) / "checkpoints" / str(file_name)

    def describe_command(self, network: str) -> str:
        """Return the place for the weights, and a command that puts them there."""
        url, path = self._find_entry(network).url, self.find_weights(network)
        return f"put them at {path}: curl --create-dirs -o {path} {url}"

    def _find_entry(self, network: str) -> Any:
        from fl_sim.core.vision import torchvision

        return torchvision.models.get_model_weights(network).DEFAULT


@lru_cache(maxsize=1)
def _list_networks() -> list[str]:
    from fl_sim.core.vision import torchvision

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _resize_positions(state: State, side: int, network: Any) -> State:
    """Return the tensors of a ViT with position embeddings interpolated for another side."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    name = "encoder.pos_embedding"
    if name not in state or state[name].shape == network.state_dict()[name].shape:
        return state
    return dict(interpolate_embeddings(side, network.patch_size, OrderedDict(state)))
