"""Options of a run, which do not belong to the experiment, such as the engine and the folder."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from fl_sim import trackers
from fl_sim.backends.base import NEEDS_LOCAL
from fl_sim.core.compilation import check_compiler, use_compilation
from fl_sim.core.device import CPU, current_device, resolve_devices, use_device
from fl_sim.core.errors import RequestError, require, suggest
from fl_sim.core.flower_types import ClientApp
from fl_sim.core.literals import BatchMode, Engine, Precision
from fl_sim.core.portable import is_portable, refuse_other_processor
from fl_sim.core.precision import check_precision, current_precision, use_precision
from fl_sim.core.serialization import check_fields
from fl_sim.rounds.callbacks import Callback, CallbackList
from fl_sim.training.faults import NO_FAULTS, Faults


@dataclass(frozen=True)
class RunOptions:
    """Options of a run.

    `client_app`, `faults`, `precision` and `compile` change the numbers, and with them the run's
    id.

    Attributes:
        out: Folder of all results.
        engine: `local`, in this process; `ray`, on warm workers of Ray; or `flower`, Flower's
            simulation engine.
        workers: Number of processes. Several runs are executed in parallel on `local` and `ray`;
            the clients of a single run on `ray`, and always on `flower`.
        resume: Keep finished runs, and continue interrupted ones from their newest checkpoint.
        controls: Also run the controls: A_all and A_clean, which protection is measured against,
            and A_honest, in which nobody attacks.
        client_app: A Flower ClientApp that replaces the experiment's clients.
        batch_clients: Whether many clients of a small model are trained as one batch; `auto`
            measures which is faster.
        faults: Failures to inject, for tests.
        ray_address: Address of a Ray cluster that is running already.
        trackers: Names of tools that follow each run, such as `tensorboard`.
        wait: Wait for another process that writes into the experiment's folder.
        callbacks: Called at the hooks of each run. They are pickled if runs are executed in
            parallel.
        skip_invalid: Leave out cells that cannot be run, and record why, in place of refusing all.
        device: Device that clients train on: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; None for
            that of the surrounding `use_device`, which is the CPU outside of any. Several, as in
            `cuda:0,1`, are shared by as many workers or more.
        deterministic: Use deterministic algorithms on an accelerator.
        mix_devices: Keep results, and continue from checkpoints, of another kind of device, or
            of another mode (portable or not).
        precision: Precision of the networks that clients train: `float32`, `tf32` or `bf16`; None
            for that of the surrounding `use_precision`, which is `float32` outside of any.
        compile: Compile the networks that clients train, by `torch.compile`, which takes some ten
            seconds of CPU time in each process.
        question: Question that the experiment answers, for its page.
    """

    out: Path = Path("runs")
    engine: Engine = "local"
    workers: int = 1
    resume: bool = False
    controls: bool = True
    client_app: ClientApp | None = None
    batch_clients: BatchMode = "auto"
    faults: Faults = NO_FAULTS
    ray_address: str | None = None
    trackers: tuple[str, ...] = ()
    wait: bool = False
    callbacks: tuple[Callback, ...] = ()
    skip_invalid: bool = False
    device: str | None = None
    deterministic: bool = True
    mix_devices: bool = False
    precision: Precision | None = None
    compile: bool = False
    question: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.workers >= 1, "workers", "at least 1", self.workers)
        in_process = self.engine == "local" and self.client_app is None
        if CallbackList(self.callbacks).watches_updates and not in_process:
            raise RequestError(NEEDS_LOCAL)
        trackers.find(self.trackers)
        if self.engine == "flower" and self.faults != NO_FAULTS:
            raise RequestError("--inject works on the engines local and ray; got flower")
        if self.client_app is not None and self.faults != NO_FAULTS:
            raise RequestError("--inject works on the experiment's clients, not on a ClientApp")
        if self.engine != "ray" and self.ray_address is not None:
            raise RequestError(f"--ray-address belongs to --engine ray; got {self.engine}")
        on_cpu = self.find_device() == CPU
        require(on_cpu or self.client_app is None, "device", "cpu with a ClientApp", self.device)
        precision = self.find_precision()
        check_precision(precision, self.find_device())
        is_told = self.engine != "flower" and self.client_app is None
        allowed = "float32 for clients of Flower, which are not told another"
        require(is_told or precision == "float32", "precision", allowed, precision)
        if is_portable():
            refuse_other_processor()
            allowed = "none in the portable mode"
            require(self.ray_address is None, "ray_address", allowed, self.ray_address)
        if self.compile:
            require(not is_portable(), "compile", "False in the portable mode", True)
            require(is_told, "compile", "False for clients of Flower, which are not told", True)
            check_compiler(self.find_device())

    def find_device(self) -> torch.device:
        """Return the device that clients train on.

        Raises:
            FieldError: If this machine does not have it.
        """
        return self.find_devices()[0]

    def find_devices(self) -> tuple[torch.device, ...]:
        """Return the devices that the workers share; the first is that of this process.

        Raises:
            FieldError: If this machine does not have one.
        """
        if self.device is None:
            return (current_device(),)
        if self.device == "auto" and self.client_app is not None:
            return (CPU,)
        return resolve_devices(self.device)

    def find_precision(self) -> Precision:
        """Return the precision of the networks that clients train."""
        return current_precision() if self.precision is None else self.precision

    @contextmanager
    def use_device(self) -> Iterator[None]:
        """Compute on the device inside the block, as the other options say."""
        device, precision = self.find_device(), self.find_precision()
        with (
            use_device(device, deterministic=self.deterministic),
            use_precision(precision),
            use_compilation(self.compile),
        ):
            yield


def make_options(given: Mapping[str, Any]) -> RunOptions:
    """Return run options from fields by name.

    A tuple may be given as a list, or a single item, faults as the text of `--inject`, and the
    device as one of PyTorch.

    Raises:
        RequestError: For an unknown name, or options that exclude each other.
    """
    names = [field.name for field in fields(RunOptions)]
    if "cohort" in given:
        raise RequestError("the option cohort is batch_clients since version 0.2")
    for name in given:
        if name not in names:
            close = suggest(name, names)
            raise RequestError(f"a run has no option {name!r}{close}; it has {', '.join(names)}")
    chosen = dict(given)
    for name in ("trackers", "callbacks"):
        if isinstance(given.get(name), str | Callback | list):
            chosen[name] = tuple(given[name]) if isinstance(given[name], list) else (given[name],)
    if isinstance(given.get("out"), str | PathLike):
        chosen["out"] = Path(given["out"])
    if isinstance(given.get("faults"), str):
        chosen["faults"] = Faults.parse(given["faults"])
    if isinstance(given.get("device"), torch.device):
        chosen["device"] = str(given["device"])
    return RunOptions(**chosen)
