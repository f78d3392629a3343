"""Adapter files of peft: low-rank changes and the head of a trained network, written and read.

A folder holds `adapter_model.safetensors` and `adapter_config.json`. Layers have the names of the
network of timm, torchvision or the user, so that peft attaches them to it by
`PeftModel.from_pretrained(network, folder)`. Written and read without peft.
"""

import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fl_sim.core.atomic_io import DamagedFileError, read_json, write_json
from fl_sim.core.errors import FieldError, RequestError, RequestWarning, require
from fl_sim.core.locks import refuse_unwritable
from fl_sim.core.tensor_files import read_unsealed, write_tensors
from fl_sim.model import ADAPTER_FILES, Model
from fl_sim.models.backbones import WEIGHTS
from fl_sim.models.low_rank import LowRankAttention, find_low_rank
from fl_sim.models.stages import WithHead

TENSORS, CONFIG = ADAPTER_FILES
PREFIX = "base_model.model."  # of peft's names
READ = {"peft_type", "r", "lora_alpha", "use_rslora"}  # entries of a configuration
HARMLESS = {  # entries that do not change the outputs of a trained adapter
    "alora_invocation_string",
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
    "task_type",
}
NEUTRAL = {"init_lora_weights": ("gaussian", "eva", "orthogonal", True), "bias": ("none",)}


def name_modules(network: nn.Module) -> None:
    """Note the name of each module in the network of its package, for after the network is cut."""
    body = network.body if isinstance(network, WithHead) else network
    for name, module in body.named_modules():
        module.source_name = name
    if isinstance(network, WithHead):
        name_of_head: Any = " and ".join(network.head_names)
        network.head.source_name = name_of_head


def write_adapter(
    trained: nn.Sequential, model: Model, folder: Path, has_statistics: bool = False
) -> None:
    """Write the low-rank changes and the head of a network as an adapter of peft.

    Args:
        trained: Trained part of the network.
        model: Description of the network.
        folder: Folder of the files, which is made.
        has_statistics: Whether statistics of batch normalisation were trained, too.

    Raises:
        RequestError: If there are no low-rank changes, or an adapter cannot hold all that changed.
        OSError: If a file cannot be written.
    """
    layers, head = find_low_rank(trained), _find_head(trained)
    if not layers:
        obstacle = f"model.tune is {model.tune!r}, and only 'lora' trains an adapter"
    elif any(layer.sends_base for layer in layers.values()):
        obstacle = "the rule changed frozen weights, which an adapter cannot hold"
    elif has_statistics:
        obstacle = "statistics of BatchNorm were trained, which an adapter cannot hold"
    elif " and " in str(head.source_name):
        obstacle = f"{model.backbone} has two heads ({head.source_name}), an adapter one"
    else:
        obstacle = ""
    if obstacle:
        way = "fl-sim export model RUN OUT.safetensors writes the whole network"
        raise RequestError(f"{obstacle}; {way}")
    foreign = _find_foreign(layer.layer for layer in layers.values())
    if foreign:
        warnings.warn(
            f"peft cannot read this adapter of {model.backbone}: it makes further layers of the "
            f"class {foreign}, which needs arguments that peft does not give; a run reads it "
            "(model.adapter), and fl-sim export model writes the whole network",
            RequestWarning,
            stacklevel=2,
        )
    folder.mkdir(parents=True, exist_ok=True)
    refuse_unwritable(folder)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": model.backbone,
        "r": model.rank,
        "lora_alpha": model.rank if model.alpha is None else model.alpha,
        "use_rslora": model.use_rslora,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": [
            str(layer.layer.source_name)
            for name, layer in layers.items()
            if not _is_of_attention(trained, name)
        ],
        "modules_to_save": [str(head.source_name)],
    }
    tensors = {name: value.detach() for name, value in _name_tensors(trained).items()}
    (folder / CONFIG).unlink(missing_ok=True)  # a break between the files leaves no old one
    write_tensors(folder / TENSORS, tensors, {"format": "pt"})
    write_json(folder / CONFIG, config)


def _find_foreign(layers: Iterable[nn.Module]) -> str:
    """Return the class of a convolution that peft cannot make anew for its factors, or nothing."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d) and type(layer) is not nn.Conv2d:
            try:
                type(layer)(layer.in_channels, 1, kernel_size=1, stride=1, bias=False)
            except Exception:  # of a foreign class, which may raise anything
                return type(layer).__name__
    return ""


def load_adapter(trained: nn.Sequential, model: Model) -> None:
    """Load an adapter, written here or by peft, into a network, in place.

    Its head is loaded if it has one.

    Raises:
        FieldError: If the adapter is missing, damaged, or of another network.
    """
    try:
        tensors, _ = read_unsealed(model.adapter_path / TENSORS)
        config = read_json(model.adapter_path / CONFIG)
    except DamagedFileError as error:
        allowed = f"a folder with an adapter of peft ({error})"
        raise FieldError("model.adapter", allowed, model.adapter) from None
    _check_config(config, model)
    own = _name_tensors(trained)
    of_head = {name for name in own if ".lora_" not in name}
    optional = of_head if not of_head & tensors.keys() else set()
    missing, unknown = own.keys() - tensors.keys() - optional, tensors.keys() - own.keys()
    wrong = sorted(missing | unknown | _find_misfits(own, tensors))
    if wrong:
        allowed = f"an adapter of the trained blocks of {model.backbone} (see {wrong[0]!r})"
        raise FieldError("model.adapter", allowed, model.adapter)
    finite = all(bool(tensors[name].to(own[name].dtype).isfinite().all()) for name in tensors)
    require(finite, "model.adapter", "an adapter of finite numbers", model.adapter)
    with torch.no_grad():
        for name, values in tensors.items():
            own[name].copy_(values)


def _check_config(config: dict[str, Any], model: Model) -> None:
    """Refuse an adapter that peft computes otherwise, or of another rank or scaling."""
    kind = config.get("peft_type") if isinstance(config, dict) else config
    if kind != "LORA":
        raise FieldError("model.adapter", "an adapter of type LORA", kind)
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    if rank != model.rank:
        raise FieldError("model.rank", f"{rank}, as in {model.adapter}", model.rank)
    is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    allowed = "an adapter whose lora_alpha is a number above 0"
    require(is_number and 0 < alpha < math.inf, "model.adapter", allowed, alpha)
    for entry in sorted(config.keys() - READ - HARMLESS):
        value: Any = config[entry]
        plain = not value or value in NEUTRAL.get(entry, ())
        allowed = f"an adapter without {entry} in {CONFIG}: plain LoRA, alike in all layers"
        require(plain, "model.adapter", allowed, value)
    wanted = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    if not math.isclose(wanted, model.lora_scaling):
        allowed = (
            f"{alpha}, and model.use_rslora {config.get('use_rslora', False)}, as in the adapter"
        )
        raise FieldError("model.alpha", allowed, model.alpha)


def _find_misfits(own: dict[str, Tensor], tensors: dict[str, Tensor]) -> set[str]:
    return {
        name
        for name in own.keys() & tensors
        if own[name].shape != tensors[name].shape or tensors[name].dtype not in WEIGHTS
    }


def _name_tensors(trained: nn.Sequential) -> dict[str, Tensor]:
    """Return the parameters of an adapter under peft's names, in peft's shapes, as views."""
    tensors: dict[str, Tensor] = {}
    for path, layer in find_low_rank(trained).items():
        name = PREFIX + str(layer.layer.source_name)
        if _is_of_attention(trained, path):
            owner, _, last = name.rpartition(".")
            name = f"{owner}.base_layer.{last}"
        shape = layer.base_weight.shape
        tensors[f"{name}.lora_A.weight"] = layer.down.view(-1, *shape[1:])
        tensors[f"{name}.lora_B.weight"] = layer.up.view(*layer.up.shape, *[1] * len(shape[2:]))
    head = _find_head(trained)
    for end, parameter in head.named_parameters():
        tensors[f"{PREFIX}{head.source_name}.{end}"] = parameter
    return tensors


def _is_of_attention(trained: nn.Sequential, path: str) -> bool:
    """Return whether a layer is the output projection of an attention that is adapted, too."""
    owner = path.removesuffix(".layer.out_proj")
    return owner != path and isinstance(trained.get_submodule(owner), LowRankAttention)


def _find_head(trained: nn.Sequential) -> nn.Module:
    """Return the last layer with parameters."""
    layers = [module for module in trained[-1].modules() if list(module.parameters(recurse=False))]
    return layers[-1]
