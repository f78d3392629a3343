"""The task of every engine: the same shards, the same clients in each round, the same arithmetic.

They are those of fl_sim's own run of the experiment, and determined by its seed.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.device import find_device
from clients.noop import NoopClient
from fl_sim.core.device import CPU
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator
from fl_sim.federation.federation import Federation, load_federation
from fl_sim.models.architectures import Normalise, PooledRelu
from fl_sim.models.foundation import Rescale
from fl_sim.models.tuning import list_trained_parameters

Shard = tuple[Tensor, Tensor]
BATCH = 256  # batch size of preparation and evaluation
TIMM = "timm:"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Task:
    """An experiment in a form that any engine can use.

    Attributes:
        federation: Run as fl_sim prepares it.
        epochs: Number of local epochs; 0 for the idle client.
        batch_size, learning_rate: Settings of plain stochastic gradient descent.
        device: Device of preloaded data and of the plain model.
    """

    federation: Federation
    epochs: int
    batch_size: int
    learning_rate: float
    device: torch.device = CPU

    def select_clients(self, round_num: int) -> list[int]:
        """Return the clients of round `round_num`."""
        return self.federation.schedule.choose_clients(round_num, self.federation.clients_with_data)

    @property
    def rows(self) -> list[Tensor]:
        """Rows of the inputs that each client holds."""
        return self.federation.shards.owners

    def iterate_batches(self, round_num: int, client: int, size: int) -> Iterator[Tensor]:
        """Yield the batches of a client's round as positions in its shard."""
        rng = generator(self.federation.experiment.seed, "round", round_num, "client", client)
        for _ in range(self.epochs):
            order = torch.randperm(size, generator=rng).to(self.device)
            yield from order.split(self.batch_size)

    @cached_property
    def shards(self) -> list[Shard]:
        """Each client's data as stored: 8-bit pixels, or features."""
        federation = self.federation
        return [(federation.inputs[rows], federation.pool.labels[rows]) for rows in self.rows]

    @cached_property
    def preloaded(self) -> list[Shard]:
        """Each client's data as its network needs it: floats, scaled and normalised."""
        return [
            (self.normalise(inputs).to(self.device), labels.to(self.device))
            for inputs, labels in self.shards
        ]

    @cached_property
    def preloaded_test(self) -> Shard:
        """The test set as the network needs it."""
        inputs = self.normalise(self.federation.test_inputs)
        return inputs.to(self.device), self.federation.dataset.test_labels.to(self.device)

    @torch.no_grad()
    def normalise(self, inputs: Tensor) -> Tensor:
        """Return inputs after the network's fixed first stages."""
        if inputs.dtype != torch.uint8:
            return inputs.float()
        front, _ = self._split_model
        return torch.cat([front(as_pixels(some)).contiguous() for some in inputs.split(BATCH)])

    def build_plain_model(self) -> nn.Sequential:
        """Return the network as in a tutorial: ReLU before pooling, channels first."""
        _, stages = self._split_model
        usual = [
            nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)) if isinstance(stage, PooledRelu) else stage
            for stage in stages
        ]
        model: Any = nn.Sequential(*usual)
        plain: nn.Sequential = model.to(memory_format=torch.contiguous_format)
        return plain.to(self.device)

    def get_state(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the tensors of the plain model that are sent, by name."""
        return model.state_dict()

    @property
    def _split_model(self) -> tuple[nn.Sequential, list[nn.Module]]:
        stages = list(deepcopy(self.federation.model))
        cut = sum(isinstance(stage, Normalise | Rescale) for stage in stages)
        return nn.Sequential(*stages[:cut]), stages[cut:]


@dataclass(frozen=True, eq=False)
class TransformerTask(Task):
    """An experiment with a network of timm: images go through all of it in every step.

    Low-rank changes are those of peft. Only trained parameters are sent.
    """

    @cached_property
    def shards(self) -> list[Shard]:
        """Each client's images."""
        pool = self.federation.pool
        return [(pool.clean_images[rows], pool.labels[rows]) for rows in self.rows]

    @torch.no_grad()
    def normalise(self, inputs: Tensor) -> Tensor:
        """Return images at the network's side, with the mean and deviation of ImageNet."""
        scale, normalise = Rescale(self._pixels), Normalise(MEAN, STD)
        return torch.cat([normalise(scale(as_pixels(some))) for some in inputs.split(BATCH)])

    def build_plain_model(self) -> nn.Sequential:
        """Return the network, of which a new head is trained, and low-rank changes if asked."""
        import timm

        model = self.federation.experiment.model
        name, num_classes = model.backbone.removeprefix(TIMM), self.federation.dataset.num_classes
        network: Any = timm.create_model(name, num_classes=num_classes, img_size=self._pixels)
        if model.tune == "lora":
            import peft

            layers = r"blocks\..*\.(qkv|proj|fc1|fc2)"
            network = peft.get_peft_model(
                network, peft.LoraConfig(r=model.rank, lora_alpha=model.rank, target_modules=layers)
            )
        network.requires_grad_(False)
        for parameter_name, parameter in network.named_parameters():
            words = parameter_name.split(".")
            parameter.requires_grad_("lora_A" in words or "lora_B" in words or "head" in words)
        return nn.Sequential(network).to(self.device)

    def get_state(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the trained parameters, by name."""
        return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    @property
    def _pixels(self) -> int:
        pixels = self.federation.experiment.model.pixels
        assert pixels is not None
        return pixels


@lru_cache(maxsize=1)
def load_task(experiment: str) -> Task:
    """Return the task of an experiment given as JSON, prepared once per process."""
    torch.set_num_threads(1)
    federation = load_federation(experiment)
    client: Any = federation.experiment.client
    if isinstance(client, NoopClient):
        return Task(federation, 0, 1, 1.0, find_device())
    assert client.momentum == client.weight_decay == client.label_smoothing == 0
    cls = TransformerTask if federation.experiment.model.backbone.startswith(TIMM) else Task
    settings = client.local_epochs, client.batch_size, client.learning_rate
    return cls(federation, *settings, find_device())


def make_parameter_groups(model: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
    """Return the parameters grouped by learning rate, as torch's optimisers accept them."""
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter, rate in list_trained_parameters(model):
        groups.setdefault(rate, []).append(parameter)
    return [{"params": group, "lr": rate * learning_rate} for rate, group in groups.items()]


@torch.no_grad()
def compute_accuracy(model: nn.Module, test: Shard) -> float:
    """Return the accuracy on the test set."""
    model.eval()
    inputs, labels = test
    right = sum(
        int((model(some).argmax(1) == group).sum())
        for some, group in zip(inputs.split(BATCH), labels.split(BATCH), strict=True)
    )
    return right / len(labels)
