"""Countermeasure plug-ins: changes of protected images before and during training."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.contracts.nouns import Images, Labels, Shard
from fl_sim.core.errors import RequestError
from fl_sim.core.serialization import TypeChecked


class Countermeasure(TypeChecked):
    """A change of possibly protected images by the trainer; one of the three kinds below.

    The kinds are applied in this order, however they are listed: filters once before training,
    then to each batch augmentations and the worst case. Normalisation is the network's first
    layer, so it comes last.
    """


class Filter(Countermeasure, ABC):
    """A change of the stored images, once, before training."""

    @abstractmethod
    def filter(
        self, images: UInt8[Tensor, "n c h w"], labels: Labels, rng: torch.Generator
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the filtered images, in the same order."""


class Augmentation(Countermeasure, ABC):
    """A random change of each batch, which may mix labels too."""

    @abstractmethod
    def augment(
        self, images: Images, targets: Float[Tensor, "n y"], rng: torch.Generator
    ) -> tuple[Images, Float[Tensor, "n y"]]:
        """Return a batch in [0, 1] and its targets, a distribution over classes per image."""


class WorstCase(Countermeasure, ABC):
    """An adversarial change of each batch, made against the network."""

    @abstractmethod
    def find_worst(
        self, model: nn.Module, images: Images, targets: Float[Tensor, "n y"], rng: torch.Generator
    ) -> Images:
        """Return a batch in [0, 1], without changing the model."""


@dataclass(frozen=True)
class Pipeline:
    """Countermeasures by kind; those of one kind keep their order."""

    filters: tuple[Filter, ...]
    augmentations: tuple[Augmentation, ...]
    worst_cases: tuple[WorstCase, ...]

    @classmethod
    def of(cls, countermeasures: tuple[Countermeasure, ...]) -> "Pipeline":
        """Return the pipeline of some countermeasures."""
        return cls(
            tuple(each for each in countermeasures if isinstance(each, Filter)),
            tuple(each for each in countermeasures if isinstance(each, Augmentation)),
            tuple(each for each in countermeasures if isinstance(each, WorstCase)),
        )

    def filter(self, shard: Shard, rng: torch.Generator) -> Shard:
        """Return the shard with filtered images.

        Raises:
            RequestError: If the shard holds cached features instead of images.
        """
        if not (self.filters or self.augmentations or self.worst_cases):
            return shard
        if shard.inputs.dtype != torch.uint8:
            raise RequestError("client.countermeasures: they need images; set model.tune=full")
        images = shard.inputs
        for image_filter in self.filters:
            images = image_filter.filter(images, shard.labels, rng)
        return replace(shard, inputs=images)

    def prepare(
        self,
        model: nn.Module,
        inputs: Float[Tensor, "n ..."],
        labels: Labels,
        num_classes: int,
        rng: torch.Generator,
    ) -> tuple[Float[Tensor, "n ..."], Shaped[Tensor, "n ..."]]:
        """Return a batch for the network, and its targets: labels, or distributions."""
        if not (self.augmentations or self.worst_cases):
            return inputs, labels
        targets = functional.one_hot(labels, num_classes).float()
        for augmentation in self.augmentations:
            inputs, targets = augmentation.augment(inputs, targets, rng)
        for worst_case in self.worst_cases:
            inputs = worst_case.find_worst(model, inputs, targets, rng)
        return inputs, targets
