"""Backends, which train the clients of a round: their interface, and the one in this process."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from time import process_time

from jaxtyping import Float
from torch import Tensor

from fl_sim.core.errors import RequestError
from fl_sim.core.process import peak_memory
from fl_sim.models.scoring import compute_logits
from fl_sim.training.client_trainer import ClientTrainer, OnUpdate
from fl_sim.training.tasks import Chunk, ChunkResult, RoundConfig, Tensors

CpuSeconds = dict[str, float] | str  # by process, or the reason why they are not known


class Backend(ABC):
    """Trains clients and scores models; the numbers are the same on every backend, bit by bit.

    Attributes:
        trainer: Trains clients in this process: what the server trains by itself.
    """

    trainer: ClientTrainer

    @abstractmethod
    def train(self, config: RoundConfig, chunks: list[Chunk]) -> Iterator[tuple[int, ChunkResult]]:
        """Yield the position of each chunk with its result, as they come."""

    @abstractmethod
    def score(
        self, values: Float[Tensor, " p"], buffers: Tensors, wanted: dict[str, Tensor]
    ) -> dict[str, Float[Tensor, "n y"]]:
        """Return the logits of the model for each set of inputs, by name."""

    def watch(self, on_update: OnUpdate | None) -> None:
        """Call `on_update` with each update before it is aggregated; None: call nothing.

        Raises:
            RequestError: where updates are added up in other processes.
        """
        if on_update is not None:
            raise RequestError("callbacks with on_client_update need the engine local")

    def peak_memory(self) -> int:
        """Return the most bytes that all processes together have held so far."""
        return peak_memory()

    def cpu_seconds(self) -> CpuSeconds:
        """Return the processor time of each process so far; or the reason why it is not known."""
        return {"this process": process_time()}


class InProcessBackend(Backend):
    """Trains one client after another, in this process."""

    def __init__(self, trainer: ClientTrainer) -> None:
        """Train by `trainer`."""
        self.trainer = trainer
        self.on_update: OnUpdate | None = None

    def watch(self, on_update: OnUpdate | None) -> None:
        """Call `on_update` with each update before it is aggregated; None: call nothing."""
        self.on_update = on_update

    def train(self, config: RoundConfig, chunks: list[Chunk]) -> Iterator[tuple[int, ChunkResult]]:
        """Train the chunks in their order."""
        for position, chunk in enumerate(chunks):
            yield position, self.trainer.train_chunk(config, chunk, self.on_update)

    def score(
        self, values: Float[Tensor, " p"], buffers: Tensors, wanted: dict[str, Tensor]
    ) -> dict[str, Float[Tensor, "n y"]]:
        """Score the sets one after another."""
        self.trainer.model_buffers.load(values, buffers)
        model = self.trainer.model
        return {name: compute_logits(model, inputs) for name, inputs in wanted.items()}
