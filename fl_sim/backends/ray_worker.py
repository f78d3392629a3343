"""The actor that runs in a Ray worker, and the serialization of what is sent to it."""

import importlib
import os
import pickle
import platform
import sys
import warnings
from dataclasses import dataclass, replace
from time import process_time
from typing import Any

import numpy as np
import ray
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fl_sim.core import interrupts, process, user_modules
from fl_sim.core.process import peak_memory
from fl_sim.models import parameters
from fl_sim.models.scoring import compute_logits
from fl_sim.training import faults
from fl_sim.training.batched_clients import BatchBuffer
from fl_sim.training.client_trainer import ClientTrainer
from fl_sim.training.tasks import Chunk, ChunkResult, RoundConfig, Tensors


@dataclass(frozen=True, eq=False)
class TrainerPackage:
    """The data and the model of a run, as a worker needs them.

    The network is pickled separately: workers write into it, whereas tensors from the object store
    are read-only memory that all workers of a machine share.

    Attributes:
        trainer: The trainer, without its network.
        network: The pickled network; it never leaves the memory of this cluster.
        evaluation_inputs: The inputs that are scored, by name.
        needs_vision: Whether the network may be one of torchvision, or of a library that uses it.
    """

    trainer: ClientTrainer
    network: bytes
    evaluation_inputs: dict[str, Tensor]
    needs_vision: bool


def pack_trainer(trainer: ClientTrainer, evaluation_inputs: dict[str, Tensor]) -> TrainerPackage:
    """Return a trainer in the form in which it is sent to workers."""
    bare = replace(trainer, model=nn.Sequential(), batch_buffer=BatchBuffer())
    network, needs_vision = pickle.dumps(trainer.model), "torchvision" in sys.modules
    return TrainerPackage(bare, network, evaluation_inputs, needs_vision)


def share_tensors() -> None:
    """Send tensors through the object store without a copy; torch's own pickling makes two."""
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
        self.cpu_start = 0.0  # CPU time of the process at the start of a run

    def adopt_modules(self, modules: tuple[user_modules.Declared, ...]) -> None:
        """Declare the user's modules, before any object of them arrives."""
        user_modules.adopt(modules)

    def report_ready(self) -> int:
        """Return the process id, once everything is imported."""
        return os.getpid()

    def load(self, content: TrainerPackage) -> None:
        """Load the data and the model of a run."""
        if content.needs_vision:  # before the network imports torchvision itself
            importlib.import_module("fl_sim.core.vision")
        self.cpu_start = process_time()
        self.trainer = replace(content.trainer, model=pickle.loads(content.network))
        self.evaluation_inputs = content.evaluation_inputs

    def train_chunk(self, config: RoundConfig, chunk: Chunk) -> ChunkResult:
        """Train a chunk of clients."""
        assert self.trainer is not None
        return self.trainer.train_chunk(config, chunk)

    def peak_memory(self) -> int:
        """Return the peak memory of this worker in bytes."""
        return peak_memory()

    def cpu_seconds(self) -> tuple[str, float]:
        """Return the machine and process, and the CPU time that it used for the run."""
        return f"{platform.node()}, process {os.getpid()}", process_time() - self.cpu_start

    def score(
        self, values: Float[Tensor, " p"], buffers: Tensors, name: str, rows: slice
    ) -> Float[Tensor, "n y"]:
        """Return the logits of the model for some rows of an evaluation set."""
        assert self.trainer is not None
        model = self.trainer.model
        parameters.load_flat(model, values)
        parameters.load_buffers(model, buffers)
        return compute_logits(model, self.evaluation_inputs[name][rows])

    def run_task(self, task: Any, job: Any, board: Any) -> str:
        """Run a whole run in this worker; return the error, or an empty string."""
        faults.in_worker = False  # an injected crash must fail the client, not the worker
        interrupts.set_flag(None)

        def listen(progress: Any) -> None:
            if ray.get(board.report.remote(progress)):
                interrupts.request_stop()

        try:
            return str(task(job, listen))
        finally:
            faults.in_worker = True
