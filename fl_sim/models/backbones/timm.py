"""The networks of timm, an optional package."""

from pathlib import Path
from typing import Any

import torch

from fl_sim.core.errors import FieldError, RequestError, suggest
from fl_sim.models.backbones import (
    PIXELS,
    Backbone,
    BackboneSource,
    MissingWeightsError,
    Request,
    UnfitError,
    import_extra,
)
from fl_sim.models.stages import WithHead

FOLDER = "local-dir:"  # opens the name of a folder with a configuration and weights
FILES = ("model.safetensors", "pytorch_model.bin")  # in the order in which timm looks for them


class Timm(BackboneSource):
    """timm's networks, such as ViT, DINOv2, CLIP's image towers and ConvNeXt.

    Mean, deviation, native side and interpolation are those of the network's configuration.
    """

    name = "timm"
    text = "A network of timm, which pip install 'fl-sim[fm]' installs."
    example = "timm:vit_tiny_patch16_224"
    pattern = "timm:NAME"

    def list_networks(self) -> list[str]:
        """Return no names: timm's need the prefix, since some are torchvision's too."""
        return []

    def build(self, request: Request) -> Backbone:
        """Return a network of timm that returns features, and a linear head."""
        timm, config = import_extra("timm", "fm"), self._find_config(request.name)
        fixed = bool(config.fixed_input_size)
        native = int(config.input_size[1])
        side = request.pixels or (native if fixed else PIXELS)
        options: dict[str, Any] = {"img_size": side} if fixed and side != native else {}
        state, num_rows = request.state, 0
        heads = (config.classifier,) if isinstance(config.classifier, str) else config.classifier
        heads = heads or ("head",)  # networks without any in their configuration
        if state is not None:
            rows = state.get(f"{heads[0]}.weight")
            fits = rows is not None and (len(heads) == 1 or len(rows) == request.num_classes)
            num_rows = len(rows) if rows is not None and fits else 0
            own = {"state_dict": dict(state), "num_classes": num_rows, "label_offset": 0}
            options |= {"pretrained": True, "pretrained_cfg_overlay": own}
        try:
            body = timm.create_model(request.name, num_classes=num_rows, **options)
        except RuntimeError as error:
            if state is None:
                raise
            raise UnfitError(" ".join(str(error).split())[:200]) from None
        if num_rows:
            body.reset_classifier(0)
        with torch.no_grad():
            width = body.eval()(torch.zeros(1, 3, side, side)).shape[1]
        network = WithHead(body.train(), width, request.num_classes, heads)
        loaded = state is not None and num_rows == request.num_classes
        if loaded:
            assert state is not None
            for end, parameter in network.head.named_parameters():
                both = torch.stack([state[f"{name}.{end}"] for name in heads])
                parameter.data.copy_(both.mean(0).view_as(parameter))
        return Backbone(
            network=network,
            head="head",
            has_new_head=not loaded,
            side=side,
            mean=tuple(config.mean),
            std=tuple(config.std),
            scaling="bicubic" if config.interpolation == "bicubic" else "bilinear",
        )

    def find_weights(self, network: str) -> Path:
        """Return the path of the weights in the cache of the hub, or in the folder of the name."""
        if network.startswith(FOLDER):
            folder = Path(network.removeprefix(FOLDER)).expanduser()
            return next((folder / f for f in FILES if (folder / f).is_file()), folder / FILES[0])
        if not network:
            return self._find_cache()
        repository, names = self._find_place(network)
        hub = import_extra("huggingface_hub", "fm")
        for name in names:
            cached = hub.try_to_load_from_cache(repository, name)  # never asks the network
            if isinstance(cached, str):
                return Path(cached)
        return self._find_cache() / f"models--{repository.replace('/', '--')}" / names[0]

    def describe_origin(self, network: str) -> str:
        """Return the folder of the hub's cache."""
        try:
            return str(self.find_weights(network))
        except RequestError:
            return "PyPI: timm"

    def describe_command(self, network: str) -> str:
        """Return the place for the weights, and the command that fetches them."""
        path = self.find_weights(network)
        if network.startswith(FOLDER):
            return f"put them at {path}"
        repository, names = self._find_place(network)
        return f"fetch them into {path.parent}: hf download {repository} {names[0]}"

    def _find_place(self, network: str) -> tuple[str, tuple[str, ...]]:
        """Return the repository of the weights on the hub, and the names that the file may have."""
        config = self._find_config(network)
        if not config.hf_hub_id:
            raise MissingWeightsError(
                f"model.init: timm has no weights for {network} on the hub; "
                "use init='checkpoint' with a file"
            )
        own = config.hf_hub_filename
        return str(config.hf_hub_id), (own,) if own else FILES

    def _find_config(self, network: str) -> Any:
        """Return the configuration of a network's weights.

        Raises:
            FieldError: If timm has no such network, or there is no such folder.
        """
        timm = import_extra("timm", "fm")
        if network.startswith(FOLDER):
            folder = Path(network.removeprefix(FOLDER)).expanduser()
            try:
                return timm.models.load_model_config_from_path(folder)[0]
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                allowed = f"a folder with timm's config.json ({type(error).__name__})"
                raise FieldError("model.backbone", allowed, f"timm:{network}") from None
        name = network.partition(".")[0]
        if not timm.is_model(name):
            allowed = f"a network of timm{suggest(name, timm.list_models())}"
            raise FieldError("model.backbone", allowed, f"timm:{network}")
        config = timm.get_pretrained_cfg(network)
        if config is None:
            tags = ", ".join(timm.list_pretrained(f"{name}.*")[:5])
            allowed = f"a network of timm with weights of that name, such as {tags}"
            raise FieldError("model.backbone", allowed, f"timm:{network}")
        return config

    def _find_cache(self) -> Path:
        return Path(import_extra("huggingface_hub.constants", "fm").HF_HUB_CACHE)
