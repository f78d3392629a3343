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

from fl_sim.core import interrupts, process
from fl_sim.core.process import peak_memory
from fl_sim.models import parameters
from fl_sim.models.scoring import compute_logits
from fl_sim.training import faults
from fl_sim.training.batched_clients import BatchBuffer
from fl_sim.training.client_trainer import ClientTrainer
from fl_sim.training.tasks import Chunk, ChunkResult, RoundConfig, Tensors


@dataclass(frozen=True, eq=False)
class TrainerPackage:
    """Everything of a run that a worker needs.

    The network is packed by itself, since a worker writes into it, and what comes out of the
    object store is read-only memory that all workers of a machine share.

    Attributes:
        trainer: The trainer, without its network.
        network: pickled; it never leaves the memory of this cluster.
        examined: the inputs that are scored, by name.
    """

    trainer: ClientTrainer
    network: bytes
    evaluation_inputs: dict[str, Tensor]


def pack_trainer(trainer: ClientTrainer, examined: dict[str, Tensor]) -> TrainerPackage:
    """Return a trainer packed up for workers."""
    bare = replace(trainer, model=nn.Sequential(), batch_buffer=BatchBuffer())
    return TrainerPackage(bare, pickle.dumps(trainer.model), examined)


def share_tensors() -> None:
    """Let tensors travel through the object store without a copy; torch's own way makes two."""
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    ray.util.register_serializer(Tensor, serializer=_to_array, deserializer=torch.from_numpy)


def _to_array(tensor: Tensor) -> Any:
    return np.ascontiguousarray(tensor.detach().numpy()).reshape(tensor.shape)


class Worker:
    """Trains chunks of clients for one run after another."""

    def __init__(self) -> None:
        process.configure_process()
        faults.in_worker = True
        share_tensors()
        self.trainer: ClientTrainer | None = None
        self.evaluation_inputs: dict[str, Tensor] = {}
        self.cpu_start = 0.0  # by the processor's clock, with the work for a run

    def report_ready(self) -> int:
        """Return the process id, once everything is imported."""
        return os.getpid()

    def load(self, content: TrainerPackage) -> None:
        """Get ready for a run."""
        self.cpu_start = process_time()
        self.trainer = replace(content.trainer, model=pickle.loads(content.network))
        self.evaluation_inputs = content.evaluation_inputs

    def train_chunk(self, config: RoundConfig, chunk: Chunk) -> ChunkResult:
        """Train a chunk of clients."""
        assert self.trainer is not None
        return self.trainer.train_chunk(config, chunk)

    def peak_memory(self) -> int:
        """Return the most bytes that this worker has held."""
        return peak_memory()

    def cpu_seconds(self) -> tuple[str, float]:
        """Return the machine and process, and the processor time that it used for the run."""
        return f"{platform.node()}, process {os.getpid()}", process_time() - self.cpu_start

    def score(
        self, values: Float[Tensor, " p"], buffers: Tensors, name: str, rows: slice
    ) -> Float[Tensor, "n y"]:
        """Score some of a set's inputs."""
        assert self.trainer is not None
        model = self.trainer.model
        parameters.load_flat(model, values)
        parameters.load_buffers(model, buffers)
        return compute_logits(model, self.evaluation_inputs[name][rows])

    def run_task(self, task: Any, job: Any, board: Any) -> str:
        """Carry a whole run out by itself; return what went wrong, or nothing."""
        faults.in_worker = False  # a crash is the client's then, not the run's
        interrupts.set_flag(None)

        def listen(progress: Any) -> None:
            if ray.get(board.report.remote(progress)):
                interrupts.request_stop()

        try:
            return str(task(job, listen))
        finally:
            faults.in_worker = True
