"""The actor that runs in a Ray worker, and the serialization of what is sent to it."""

import importlib
import os
import pickle
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from time import process_time
from typing import Any

import numpy as np
import ray
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fl_sim.core import interrupts, process, user_modules
from fl_sim.core.device import CPU, assign_device, current_device, move, use_device
from fl_sim.core.literals import Precision
from fl_sim.core.precision import current_precision, use_precision
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
        device: Kind of device to train on.
        deterministic: Whether to use deterministic algorithms there.
        precision: Precision of the network.
    """

    trainer: ClientTrainer
    network: bytes
    evaluation_inputs: dict[str, Tensor]
    needs_vision: bool
    device: str
    deterministic: bool
    precision: Precision


def pack_trainer(trainer: ClientTrainer, evaluation_inputs: dict[str, Tensor]) -> TrainerPackage:
    """Return a trainer in the form in which it is sent to workers, with tensors on the CPU."""
    shards = move(trainer.shards, CPU)
    bare = replace(trainer, shards=shards, model=nn.Sequential(), batch_buffer=BatchBuffer())
    model = trainer.model if current_device() == CPU else deepcopy(trainer.model).cpu()
    return TrainerPackage(
        bare,
        pickle.dumps(model),
        evaluation_inputs,
        needs_vision="torchvision" in sys.modules,
        device=current_device().type,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        precision=current_precision(),
    )


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
        if ray.get_gpu_ids():  # Ray shows a worker no others, so that its own is the first
            assign_device(torch.device("cuda", 0))
        self.trainer: ClientTrainer | None = None
        self.settings: TrainerPackage | None = None
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
        self.settings, self.evaluation_inputs = content, content.evaluation_inputs
        with self._use_device():
            model = pickle.loads(content.network).to(current_device())
            shards = move(content.trainer.shards, current_device())
            self.trainer = replace(content.trainer, model=model, shards=shards)

    @contextmanager
    def _use_device(self) -> Iterator[None]:
        """Compute on the device of the run inside the block."""
        assert self.settings is not None
        kind, deterministic = self.settings.device, self.settings.deterministic
        precision = self.settings.precision
        with use_device(kind, deterministic=deterministic), use_precision(precision):
            yield

    def train_chunk(self, config: RoundConfig, chunk: Chunk) -> ChunkResult:
        """Train a chunk of clients, and return its tensors on the CPU."""
        assert self.trainer is not None
        with self._use_device():
            result = self.trainer.train_chunk(config, chunk)
            return result if current_device() == CPU else move(result, CPU)

    def memory_note(self) -> str:
        """Return the limit that the memory of the device has set, in words; empty if none."""
        return self.trainer.memory_note if self.trainer else ""

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
        with self._use_device():
            parameters.load_flat(model, values)
            parameters.load_buffers(model, buffers)
            return compute_logits(model, self.evaluation_inputs[name][rows]).cpu()

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
