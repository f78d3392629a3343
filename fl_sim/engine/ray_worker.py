"""What runs inside a worker of Ray, and how things travel there and back."""

import os
import pickle
import platform
import warnings
from dataclasses import dataclass, replace
from time import process_time
from typing import Any

import numpy as np
import ray
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fl_sim import process
from fl_sim.engine import faults, interrupts
from fl_sim.engine.cohort import Batch
from fl_sim.engine.memory import peak
from fl_sim.engine.orders import Chunk, Done, Order, Tensors
from fl_sim.engine.scores import logits
from fl_sim.engine.workshop import Workshop
from fl_sim.models import parameters


@dataclass(frozen=True, eq=False)
class Package:
    """Everything of a run that a worker needs.

    The network is packed by itself, since a worker writes into it, and what comes out of the
    object store is read-only memory that all workers of a machine share.

    Attributes:
        workshop: without its network.
        network: pickled; it never leaves the memory of this cluster.
        examined: the inputs that are scored, by name.
    """

    workshop: Workshop
    network: bytes
    examined: dict[str, Tensor]


def package(workshop: Workshop, examined: dict[str, Tensor]) -> Package:
    """Return a workshop packed up for workers."""
    bare = replace(workshop, model=nn.Sequential(), batch=Batch())
    return Package(bare, pickle.dumps(workshop.model), examined)


def share_tensors() -> None:
    """Let tensors travel through the object store without a copy; torch's own way makes two."""
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    ray.util.register_serializer(Tensor, serializer=_to_array, deserializer=torch.from_numpy)


def _to_array(tensor: Tensor) -> Any:
    return np.ascontiguousarray(tensor.detach().numpy()).reshape(tensor.shape)


class Worker:
    """Trains chunks of clients for one run after another."""

    def __init__(self) -> None:
        process.settle()
        faults.in_worker = True
        share_tensors()
        self.workshop: Workshop | None = None
        self.examined: dict[str, Tensor] = {}
        self.began = 0.0  # by the processor's clock, with the work for a run

    def ready(self) -> int:
        """Return the process id, once everything is imported."""
        return os.getpid()

    def load(self, content: Package) -> None:
        """Get ready for a run."""
        self.began = process_time()
        self.workshop = replace(content.workshop, model=pickle.loads(content.network))
        self.examined = content.examined

    def work(self, order: Order, chunk: Chunk) -> Done:
        """Train a chunk of clients."""
        assert self.workshop is not None
        return self.workshop.work(order, chunk)

    def peak(self) -> int:
        """Return the most bytes that this worker has held."""
        return peak()

    def used(self) -> tuple[str, float]:
        """Return the machine and process, and the processor time that it used for the run."""
        return f"{platform.node()}, process {os.getpid()}", process_time() - self.began

    def scores(
        self, values: Float[Tensor, " p"], buffers: Tensors, name: str, rows: slice
    ) -> Float[Tensor, "n y"]:
        """Score some of a set's inputs."""
        assert self.workshop is not None
        model = self.workshop.model
        parameters.load_flat(model, values)
        parameters.load_buffers(model, buffers)
        return logits(model, self.examined[name][rows])

    def carry_out(self, task: Any, job: Any, board: Any) -> str:
        """Carry a whole run out by itself; return what went wrong, or nothing."""
        faults.in_worker = False  # a crash is the client's then, not the run's
        interrupts.share(None)

        def listen(progress: Any) -> None:
            if ray.get(board.report.remote(progress)):
                interrupts.stop()

        try:
            return str(task(job, listen))
        finally:
            faults.in_worker = True
