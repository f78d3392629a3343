"""Ray's workers, started once a process and kept warm from run to run."""

import os
from dataclasses import dataclass, field
from typing import Any

import ray

from fl_sim.backends import loopback
from fl_sim.backends.ray_worker import Worker, share_tensors
from fl_sim.core.errors import RequestError, RunFailedError
from fl_sim.training.tasks import Chunk

READY_TIMEOUT = 120.0  # seconds for a worker to be ready, where there is no other
MAX_FAILED_STARTS = 3  # in a row that may fail before a run gives up


@dataclass(eq=False)
class Call:
    """A chunk, or one client of it alone, that a worker has been given."""

    position: int
    tasks: Chunk
    single_client: bool = False
    ref: Any = None
    started: float = 0.0


@dataclass(eq=False)
class WorkerHandle:
    """A worker as its crew sees it: the calls that it holds, oldest first."""

    actor: Any = None
    pending: Any = None  # answered once it has imported, or loaded, everything; then None
    loaded: Any = None  # the package of the run that it is ready for
    calls: list[Call] = field(default_factory=list)
    failed_starts: int = 0  # in a row


_pool: list[WorkerHandle] = []
_address: str | None = None  # of the cluster that this process has joined


def get_workers(count: int, address: str | None = None) -> list[WorkerHandle]:
    """Return warm workers, starting Ray and those that are missing.

    Raises:
        RequestError: where no cluster answers at `address`.
        RunFailedError: where Ray does not start on this machine.
    """
    if ray.is_initialized() and (
        address != _address or (address is None and count > _count_cpus())
    ):
        ray.shutdown()
    if not ray.is_initialized():
        _pool.clear()  # whoever was there went with an earlier Ray
        _start(count, address)
    for worker in _pool[count:]:
        ray.kill(worker.actor)
    del _pool[count:]
    while len(_pool) < count:
        _pool.append(WorkerHandle())
        restart(_pool[-1])
    return _pool


def _start(count: int, address: str | None) -> None:
    global _address
    os.environ.setdefault("RAY_worker_niceness", "0")  # else workers yield to their own driver
    quiet: Any = {"log_to_driver": False, "logging_level": "ERROR"}
    cause = "" if address else loopback.find_start_problem()
    if cause:
        raise RequestError(f"Ray cannot start: {cause}")
    try:
        if address is None:
            with loopback.listen_on_loopback():
                ray.init(num_cpus=count, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises nothing narrower
        cause = (str(error).splitlines() or ["no answer"])[0]
        if address is None:
            raise RunFailedError(f"Ray did not start: {cause}") from error
        raise RequestError(f"--ray-address: no Ray cluster at {address!r} ({cause})") from None
    _address = address
    share_tensors()


def restart(worker: WorkerHandle) -> None:
    """Replace a worker, which may be dead already, by a fresh one."""
    if worker.actor is not None:
        ray.kill(worker.actor)
    kind: Any = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(Worker)
    worker.actor = kind.remote()
    worker.pending, worker.loaded, worker.calls = worker.actor.report_ready.remote(), None, []
    worker.failed_starts = 0


def poll_ready(worker: WorkerHandle, package: Any = None) -> bool:
    """Return whether a worker can be given something to do, with the data of a run at hand.

    None stands for work that needs none. A worker that dies before it is ready is replaced: no
    client had a part in it.

    Raises:
        RunFailedError: where workers cannot be started at all.
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
        RunFailedError: where none is in good time.
    """
    starting = [worker.pending for worker in pool if worker.pending is not None]
    came, _ = ray.wait(starting, num_returns=1, timeout=READY_TIMEOUT) if starting else ([1], [])
    if not came:
        raise RunFailedError(f"no worker of Ray was ready within {READY_TIMEOUT:.0f} s")


def _count_cpus() -> float:
    found: Any = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return float(found.get("CPU", 0))
