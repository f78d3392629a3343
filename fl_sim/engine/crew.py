"""Who trains a round's clients: this process, Ray's workers, or the nodes of a Flower grid."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from time import process_time

from jaxtyping import Float
from torch import Tensor

from fl_sim.engine.memory import peak
from fl_sim.engine.orders import Chunk, Done, Order, Tensors
from fl_sim.engine.scores import logits
from fl_sim.engine.workshop import Workshop

Used = dict[str, float] | str  # seconds of processor time by process, or why they are not known


class Crew(ABC):
    """Trains and scores; whichever it is, the numbers are the same, bit by bit."""

    @abstractmethod
    def train(self, order: Order, chunks: list[Chunk]) -> Iterator[tuple[int, Done]]:
        """Yield the position of each chunk with what became of it, as they come."""

    @abstractmethod
    def scores(
        self, values: Float[Tensor, " p"], buffers: Tensors, wanted: dict[str, Tensor]
    ) -> dict[str, Float[Tensor, "n y"]]:
        """Return the model's scores of each set of inputs, by name."""

    def peak(self) -> int:
        """Return the most bytes that were held so far, by all processes together."""
        return peak()

    def used(self) -> Used:
        """Return the processor time of each process so far, in seconds; or why it is not known."""
        return {"this process": process_time()}


class LocalCrew(Crew):
    """One client after another, in this process."""

    def __init__(self, workshop: Workshop) -> None:
        """Train in `workshop`."""
        self.workshop = workshop

    def train(self, order: Order, chunks: list[Chunk]) -> Iterator[tuple[int, Done]]:
        """Work the chunks off in their order."""
        for position, chunk in enumerate(chunks):
            yield position, self.workshop.work(order, chunk)

    def scores(
        self, values: Float[Tensor, " p"], buffers: Tensors, wanted: dict[str, Tensor]
    ) -> dict[str, Float[Tensor, "n y"]]:
        """Score the sets one after another."""
        self.workshop.slots.load(values, buffers)
        model = self.workshop.model
        return {name: logits(model, inputs) for name, inputs in wanted.items()}
