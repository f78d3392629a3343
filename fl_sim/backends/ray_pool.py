"""Pool of Ray workers, started once per process and kept warm from run to run."""

import os
from dataclasses import dataclass, field
from typing import Any

import ray
import torch

from fl_sim.backends import loopback
from fl_sim.backends.ray_worker import Worker, share_tensors
from fl_sim.core import user_modules
from fl_sim.core.device import CPU, share_gpus, show_gpus
from fl_sim.core.errors import RequestError, RunFailedError
from fl_sim.training.tasks import Chunk

READY_TIMEOUT = 120.0  # seconds for a worker to be ready, if there is no other
MAX_FAILED_STARTS = 3  # in a row, before a run gives up


@dataclass(eq=False)
class Call:
    """A chunk, or a single client of it, that is sent to a worker.

    Attributes:
        position: Position of the chunk in the round.
        tasks: The clients to train.
        single_client: Whether it is one client of a chunk that a worker was lost over.
        ref: Ray's reference to the result.
        started: Time at which the worker started on it, by the monotonic clock.
    """

    position: int
    tasks: Chunk
    single_client: bool = False
    ref: Any = None
    started: float = 0.0


@dataclass(eq=False)
class WorkerHandle:
    """A worker, and the calls that it has been sent.

    Attributes:
        num_gpus: Number of GPUs that it has, or the part of one.
        actor: Ray's handle of the actor.
        pending: Reference to a call that imports or loads data; None once the worker is ready.
        loaded: The package of the run that the worker has loaded.
        calls: The calls that it holds, oldest first; it works at the first.
        failed_starts: Number of failed starts in a row.
        modules: The user's modules that it knows.
    """

    num_gpus: float = 0.0
    actor: Any = None
    pending: Any = None
    loaded: Any = None
    calls: list[Call] = field(default_factory=list)
    failed_starts: int = 0
    modules: tuple[user_modules.Declared, ...] = ()


_pool: list[WorkerHandle] = []
_address: str | None = None  # of the cluster that this process has joined, if any
_gpus: list[int] = []  # numbers of the GPUs of this machine that its own Ray may use


def get_workers(
    count: int, address: str | None = None, devices: tuple[torch.device, ...] = (CPU,)
) -> list[WorkerHandle]:
    """Return `count` warm workers, starting Ray and missing workers.

    Args:
        count: Number of workers.
        address: Address of a Ray cluster; None for this machine.
        devices: Devices that they share. A GPU is one of Ray's resources, of which each worker
            has a whole one or a fraction; on a cluster, all of its GPUs are shared.

    Raises:
        RequestError: If no cluster answers at `address`, or it has no GPU.
        RunFailedError: If Ray does not start on this machine.
    """
    gpus = [device.index for device in devices if device.type == "cuda"]
    if ray.is_initialized() and (
        address != _address or (address is None and (count > _count("CPU") or gpus != _gpus))
    ):
        ray.shutdown()
    if not ray.is_initialized():
        _pool.clear()  # its workers ended with an earlier Ray
        _start(count, address, gpus)
    num_gpus = share_gpus(int(_count("GPU")), count) if gpus else 0.0
    if gpus and not num_gpus:
        raise RequestError(f"--device {devices[0].type}: the cluster at {address!r} has no GPU")
    kept = [worker for worker in _pool[:count] if worker.num_gpus == num_gpus]
    for worker in _pool:
        if worker not in kept:
            ray.kill(worker.actor)
    _pool[:] = kept
    while len(_pool) < count:
        _pool.append(WorkerHandle(num_gpus))
        restart(_pool[-1])
    for worker in _pool:
        _send_modules(worker)
    return _pool


def _send_modules(worker: WorkerHandle) -> None:
    """Tell a worker the user's modules, before it is sent objects of them."""
    modules = user_modules.declared()
    if worker.modules != modules:
        worker.actor.adopt_modules.remote(modules)
        worker.modules = modules


def _start(count: int, address: str | None, gpus: list[int]) -> None:
    global _address, _gpus
    os.environ.setdefault("RAY_worker_niceness", "0")  # else they run at low priority
    quiet: Any = {"log_to_driver": False, "logging_level": "ERROR"}
    cause = "" if address else loopback.find_start_problem()
    if cause:
        raise RequestError(f"Ray cannot start: {cause}")
    try:
        if address is None:
            with loopback.listen_on_loopback(), show_gpus(gpus):
                ray.init(num_cpus=count, num_gpus=len(gpus), include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises many types
        cause = (str(error).splitlines() or ["no answer"])[0]
        if address is None:
            raise RunFailedError(f"Ray did not start: {cause}") from error
        raise RequestError(f"--ray-address: no Ray cluster at {address!r} ({cause})") from None
    _address, _gpus = address, gpus
    share_tensors()


def restart(worker: WorkerHandle) -> None:
    """Replace a worker, which may be dead, by a new one."""
    if worker.actor is not None:
        ray.kill(worker.actor)
    needs: Any = {"num_cpus": 1, "num_gpus": worker.num_gpus, "max_restarts": 0}
    kind: Any = ray.remote(**needs, scheduling_strategy="SPREAD")(Worker)
    worker.actor, worker.modules = kind.remote(), ()
    _send_modules(worker)
    worker.pending, worker.loaded, worker.calls = worker.actor.report_ready.remote(), None, []
    worker.failed_starts = 0


def poll_ready(worker: WorkerHandle, package: Any = None) -> bool:
    """Return whether a worker is ready for a call, with the data of a run loaded.

    Never waits: it starts what is missing, and returns False until that is done. A worker that
    dies before it is ready is replaced, since no client is to blame.

    Args:
        worker: The worker.
        package: Reference to the run's data; None if the call needs none.

    Raises:
        RunFailedError: If workers repeatedly fail to start.
    """
    while worker.pending is not None and ray.wait([worker.pending], timeout=0)[0]:
        try:
            ray.get(worker.pending)
            worker.pending = None
        except ray.exceptions.RayError as error:
            failed = worker.failed_starts + 1
            if failed >= MAX_FAILED_STARTS:
                cause = (str(error).splitlines() or [""])[-1]
                raise RunFailedError(f"workers of Ray die as they start: {cause}") from error
            restart(worker)
            worker.failed_starts = failed
    if worker.pending is None and package is not None and worker.loaded is not package:
        worker.pending, worker.loaded = worker.actor.load.remote(package), package
    if worker.pending is None:
        worker.failed_starts = 0
    return worker.pending is None


def wait_until_one_ready(pool: list[WorkerHandle]) -> None:
    """Wait until a worker is ready.

    Raises:
        RunFailedError: If none is within `READY_TIMEOUT`.
    """
    pending = [worker.pending for worker in pool if worker.pending is not None]
    done, _ = ray.wait(pending, num_returns=1, timeout=READY_TIMEOUT) if pending else ([1], [])
    if not done:
        raise RunFailedError(f"no worker of Ray was ready within {READY_TIMEOUT:.0f} s")


def _count(resource: str) -> float:
    resources: Any = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return float(resources.get(resource, 0))
