"""Parallel execution of whole runs on warm workers of Ray, on this machine or a cluster."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import ray
import torch
from ray import cloudpickle

from fl_sim.backends import ray_pool
from fl_sim.backends.ray_pool import WorkerHandle
from fl_sim.core import interrupts
from fl_sim.core.device import CPU
from fl_sim.runs.progress import Listener, Progress

Job = TypeVar("Job")
POLL = 0.1  # seconds between two polls of the workers


class ReportBoard:
    """Actor that collects the reports of workers, and passes on requests to stop."""

    def __init__(self) -> None:
        self.reports: list[Progress] = []
        self.stopping = False

    def report(self, progress: Progress) -> bool:
        """Add a report; return whether the worker is to stop."""
        self.reports.append(progress)
        return self.stopping

    def take(self, stopping: bool) -> list[Progress]:
        """Return the reports since the last call, and store whether workers are to stop."""
        reports, self.reports = self.reports, []
        self.stopping = stopping
        return reports


def dump(value: Any) -> bytes:
    """Return the bytes by which Ray sends a value to a worker."""
    pickler: Any = cloudpickle
    return bytes(pickler.dumps(value))


def run_on_ray(
    task: Callable[[Job, Listener], str],
    jobs: list[Job],
    count: int,
    address: str | None,
    listen: Listener,
    devices: tuple[torch.device, ...] = (CPU,),
) -> Iterator[tuple[Job, str]]:
    """Yield each job and its error as it ends.

    Results have to be written to a folder that all machines of a cluster share.

    Args:
        task: Picklable function of a job and a listener, whose reports reach `listen`.
        jobs: Jobs in the order of their start.
        count: Number of workers.
        address: Address of a Ray cluster; None for this machine.
        listen: Called in this process with every report.
        devices: Devices of this machine that the workers share.
    """
    pool, queue = ray_pool.get_workers(count, address, devices), deque(jobs)
    kind: Any = ray.remote(num_cpus=0)(ReportBoard)
    board = kind.remote()
    busy: dict[Any, tuple[WorkerHandle, Job]] = {}
    with interrupts.finish_round_on_interrupt():
        while queue or busy:
            idle = [worker for worker in pool if all(worker is not own for own, _ in busy.values())]
            for worker in idle:
                if queue and ray_pool.poll_ready(worker):
                    job = queue.popleft()
                    busy[worker.actor.run_task.remote(task, job, board)] = (worker, job)
            done, _ = ray.wait(list(busy), timeout=POLL) if busy else ([], [])
            for progress in ray.get(board.take.remote(interrupts.is_stop_requested())):
                listen(progress)
            for ref in done:
                worker, job = busy.pop(ref)
                yield job, _read_outcome(ref, worker)
            if not busy:
                ray_pool.wait_until_one_ready(pool)


def _read_outcome(ref: Any, worker: WorkerHandle) -> str:
    try:
        return str(ray.get(ref))
    except ray.exceptions.RayTaskError as error:
        return f"{type(error.cause).__name__}: {error.cause}"
    except ray.exceptions.RayError:
        ray_pool.restart(worker)
        return "its worker died; continue with --resume"
