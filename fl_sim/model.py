"""The network of an experiment: its architecture, its start, and the part that is trained."""

import hashlib
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from fl_sim.core import serialization
from fl_sim.core.atomic_io import hash_file
from fl_sim.core.errors import FieldError, require
from fl_sim.planted import Planted

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")  # of peft
CLOSED_FORM = ("ncm", "ridge", "lda", "fedcof")  # values of `model.tune`: heads that are solved


@dataclass(frozen=True)
class Model:
    """The network, its initial weights, and the part of it that is trained.

    Attributes:
        backbone: Name of a network, as in `fl-sim list models`.
        init: `pretrained` weights (a foundation model), those of a `checkpoint`, a `random` start,
            or a `planted` one: the weights that `planted` is a recipe of.
        tune: The part that is trained and sent: everything, the last block and the head,
            or the head alone; or the head with the scales and shifts of all normalisation
            (`norm`), all biases (`bias`), low-rank changes to the last blocks (`lora`), or learned
            tokens beside the image's in the last blocks (`prompt`). The output of frozen first
            layers is computed once per image and cached. `ncm`, `ridge`, `lda` and `fedcof` train
            nothing: clients send statistics of their features, from which the server solves the
            head in one round. `zero_shot` takes the head from `class_embeddings`.
        rank: Rank of the changes of `lora`.
        alpha: Factor of these changes times the rank, as in peft: they are scaled by alpha / rank;
            None: the rank, so that they are not scaled.
        use_rslora: Whether they are scaled by alpha / sqrt(rank) instead, which keeps their size
            at high ranks (rsLoRA, https://arxiv.org/abs/2312.03732).
        lora_train: Factors of the changes that are trained and sent: `both`, or the second alone
            (`up`), beside a random, frozen first one (FFA-LoRA, https://arxiv.org/abs/2403.12313).
        lora_layers: Ends of the names of the layers that `lora` changes, such as `attn.qkv`, in
            the network of its package; empty: all linear layers, attention projections and
            ungrouped convolutions.
        adapter: Folder of an adapter of peft from which `lora` starts; None: changes start at zero.
        prompts: Number of learned tokens of `prompt`.
        deep_prompts: Whether each block has prompts of its own, instead of common ones in front.
        norm: Normalisation of this project's networks: `batch`, `group` (keeps no statistics), or
            `off`.
        pixels: Side to which images are scaled for a foundation model; None: its default.
        backbone_rate: Learning rate of pretrained layers as a share of the head's.
        planted: Recipe of a start model with a backdoor or a bias, for `init="planted"`.
        blocks: Number of last blocks that `last_block`, `lora` and `prompt` change, or `all`.
        checkpoint: Path of a safetensors file or a state dict with the tensors of the network.
        warm_start: A closed form, such as `ridge`, whose head the trained head starts from; None:
            it starts as the network is built.
        class_embeddings: For `zero_shot`, the path of a .npy, .safetensors or .csv file with one
            row per class: features of the class's text.
        width: Number of first maps of `resnet9`, `cifar_vgg16` and `cifar_densenet121`, and of the
            first group of `wrn34_10`; None for that of the published network.
    """

    backbone: str = "small_cnn"
    init: Literal["random", "pretrained", "checkpoint", "planted"] = "random"
    tune: Literal[
        "full",
        "last_block",
        "head",
        "norm",
        "bias",
        "lora",
        "prompt",
        "ncm",
        "ridge",
        "lda",
        "fedcof",
        "zero_shot",
    ] = "full"
    norm: Literal["batch", "group", "off"] = "batch"
    pixels: int | None = None
    backbone_rate: float = 0.05
    rank: int = 4
    blocks: int | Literal["all"] = serialization.omit_if_default(1)
    alpha: float | None = serialization.omit_if_default(None)
    use_rslora: bool = serialization.omit_if_default(False)
    lora_train: Literal["both", "up"] = serialization.omit_if_default("both")
    lora_layers: tuple[str, ...] = serialization.omit_if_default(())
    planted: Planted | None = serialization.omit_if_default(None)
    checkpoint: str | None = serialization.omit_if_default(None)
    warm_start: Literal["ncm", "ridge", "lda", "fedcof"] | None = serialization.omit_if_default(
        None
    )
    class_embeddings: str | None = serialization.omit_if_default(None)
    adapter: str | None = serialization.omit_if_default(None)
    prompts: int = serialization.omit_if_default(10)
    deep_prompts: bool = serialization.omit_if_default(False)
    width: int | None = serialization.omit_if_default(None)

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.rank >= 1, "rank", "at least 1", self.rank)
        require(0 < self.backbone_rate <= 1, "backbone_rate", "in (0, 1]", self.backbone_rate)
        fits = self.pixels is None or 8 <= self.pixels <= 512
        require(fits, "pixels", "between 8 and 512, or None for the default", self.pixels)
        some = self.blocks == "all" or self.blocks >= 1
        require(some, "blocks", "at least 1, or 'all'", self.blocks)
        positive = self.alpha is None or self.alpha > 0
        require(positive, "alpha", "above 0, or None for the rank", self.alpha)
        has_recipe = self.init != "planted" or self.planted is not None
        require(has_recipe, "init", "'planted' with a recipe in model.planted", self.init)
        base = self.planted.base if self.init == "planted" and self.planted else self.init
        wanted = base == "checkpoint"
        allowed = "the path of a file" if wanted else "None unless init is 'checkpoint'"
        require(wanted == bool(self.checkpoint), "checkpoint", allowed, self.checkpoint)
        fits = self.adapter is None or self.tune == "lora"
        require(fits, "adapter", "None unless tune is 'lora'", self.adapter)
        require(self.prompts >= 1, "prompts", "at least 1", self.prompts)
        fits = self.width is None or 1 <= self.width <= 512
        require(fits, "width", "between 1 and 512, or None for that of the network", self.width)

        trained = self.tune not in (*CLOSED_FORM, "zero_shot")
        require(
            trained or not self.warm_start, "warm_start", "None where no head is trained", self.tune
        )
        wanted, path = self.tune == "zero_shot", self.class_embeddings
        allowed = "the path of a file" if wanted else "None unless tune is 'zero_shot'"
        require(wanted == bool(path), "class_embeddings", allowed, path)

    @property
    def lora_scaling(self) -> float:
        """Factor of the low-rank changes."""
        alpha = self.rank if self.alpha is None else self.alpha
        return float(alpha / (self.rank**0.5 if self.use_rslora else self.rank))

    @property
    def checkpoint_path(self) -> Path:
        """Path of the checkpoint, with `~` expanded."""
        return Path(os.path.expanduser(self.checkpoint or ""))

    def hash_checkpoint(self) -> str:
        """Return the SHA-256 of the checkpoint.

        Raises:
            FieldError: If it cannot be read.
        """
        try:
            return hash_file(self.checkpoint_path)
        except OSError as error:
            allowed = f"a file that can be read ({error.strerror})"
            raise FieldError("model.checkpoint", allowed, self.checkpoint) from None

    def hash_embeddings(self) -> str:
        """Return the SHA-256 of the class embeddings.

        Raises:
            FieldError: If they cannot be read.
        """
        try:
            return hash_file(Path(os.path.expanduser(self.class_embeddings or "")))
        except OSError as error:
            allowed = f"a file that can be read ({error.strerror})"
            raise FieldError("model.class_embeddings", allowed, self.class_embeddings) from None

    @property
    def adapter_path(self) -> Path:
        """Path of the folder of the adapter, with `~` expanded."""
        return Path(os.path.expanduser(self.adapter or ""))

    def hash_adapter(self) -> str:
        """Return a hash of the files of the adapter.

        Raises:
            FieldError: If one of them cannot be read.
        """
        try:
            hashes = [hash_file(self.adapter_path / name) for name in ADAPTER_FILES]
        except OSError as error:
            allowed = f"a folder with {' and '.join(ADAPTER_FILES)} ({error.strerror})"
            raise FieldError("model.adapter", allowed, self.adapter) from None
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    def __str__(self) -> str:
        """Return backbone, init, tune and other fields that are not default, for a table."""
        rest = [f.name for f in fields(self)[3:] if getattr(self, f.name) != f.default]
        words = [f"{name}={serialization.label(getattr(self, name))}" for name in rest]
        return ", ".join([self.backbone, self.init, self.tune, *words])

    @property
    def base(self) -> "Model":
        """The model that the recipe of a planted start trains; else the model itself."""
        if self.init != "planted" or self.planted is None:
            return self
        return replace(self, init=self.planted.base, planted=None)
