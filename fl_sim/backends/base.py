"""Interface of backends, which train the clients of a round, and the backend in this process."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from time import process_time

from jaxtyping import Float
from torch import Tensor

from fl_sim.core.device import keep_on_device
from fl_sim.core.errors import RequestError
from fl_sim.core.process import peak_memory
from fl_sim.models.scoring import compute_logits
from fl_sim.training.client_trainer import ClientTrainer, OnUpdate
from fl_sim.training.tasks import Chunk, ChunkResult, RoundConfig, Tensors

NEEDS_LOCAL = "callbacks with on_client_update need the engine local, without a client_app"
CpuSeconds = dict[str, float] | str  # by process, or the reason why they are unknown


class Backend(ABC):
    """Trains clients and scores models; all backends give the same numbers, bit by bit.

    Attributes:
        trainer: Trains clients in this process, such as those that the server trains itself.
    """

    trainer: ClientTrainer

    @abstractmethod
    def train(self, config: RoundConfig, chunks: list[Chunk]) -> Iterator[tuple[int, ChunkResult]]:
        """Yield the position of each chunk with its result, in any order."""

    @abstractmethod
    def score(
        self, values: Float[Tensor, " p"], buffers: Tensors, inputs: dict[str, Tensor]
    ) -> dict[str, Float[Tensor, "n y"]]:
        """Return the logits of the model for each set of inputs, by name."""

    def watch(self, on_update: OnUpdate | None) -> None:
        """Call `on_update`, unless None, with each update before it is aggregated.

        Raises:
            RequestError: If updates are summed in other processes.
        """
        if on_update is not None:
            raise RequestError(NEEDS_LOCAL)

    def peak_memory(self) -> int:
        """Return the peak memory of all processes together so far, in bytes."""
        return peak_memory()

    def memory_note(self) -> str:
        """Return the limit that the memory of a device has set, in words; empty if none."""
        return self.trainer.memory_note

    def cpu_seconds(self) -> CpuSeconds:
        """Return the CPU seconds of each process so far, or the reason why they are unknown."""
        return {"this process": process_time()}


class InProcessBackend(Backend):
    """Trains the chunks of a round one after another, in this process."""

    def __init__(self, trainer: ClientTrainer) -> None:
        """Create a backend that trains with `trainer`."""
        self.trainer = trainer
        self.on_update: OnUpdate | None = None

    def watch(self, on_update: OnUpdate | None) -> None:
        """Call `on_update`, unless None, with each update before it is aggregated."""
        self.on_update = on_update

    def train(self, config: RoundConfig, chunks: list[Chunk]) -> Iterator[tuple[int, ChunkResult]]:
        """Train the chunks in their order."""
        for position, chunk in enumerate(chunks):
            yield position, self.trainer.train_chunk(config, chunk, self.on_update)

    def score(
        self, values: Float[Tensor, " p"], buffers: Tensors, inputs: dict[str, Tensor]
    ) -> dict[str, Float[Tensor, "n y"]]:
        """Score the sets one after another."""
        self.trainer.model_tensors.load(values, buffers)
        model = self.trainer.model
        return {
            name: compute_logits(model, keep_on_device(rows)).cpu() for name, rows in inputs.items()
        }
