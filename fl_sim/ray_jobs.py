"""Whole runs side by side on warm workers of Ray, on this machine or a cluster."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import ray

from fl_sim.engine import interrupts, ray_pool
from fl_sim.engine.progress import Listener, Progress
from fl_sim.engine.ray_pool import Hand

Job = TypeVar("Job")
POLL = 0.1  # seconds between looks at what workers have to say


class Board:
    """Where workers report, and learn whether they are to stop after their round."""

    def __init__(self) -> None:
        self.reports: list[Progress] = []
        self.stopping = False

    def report(self, progress: Progress) -> bool:
        """Take a report; return whether to stop."""
        self.reports.append(progress)
        return self.stopping

    def taken(self, stopping: bool) -> list[Progress]:
        """Return the reports since the last call, and pass on whether to stop."""
        reports, self.reports = self.reports, []
        self.stopping = stopping
        return reports


def side_by_side(
    task: Callable[[Job, Listener], str],
    jobs: list[Job],
    count: int,
    address: str | None,
    listen: Listener,
) -> Iterator[tuple[Job, str]]:
    """Yield each job with what `task` says went wrong with it, as they come.

    Results have to land in a folder that all machines of a cluster share.

    Args:
        task: picklable; it is given the job and a listener whose reports reach `listen`.
        jobs: what to do.
        count: number of workers.
        address: of a Ray cluster; None: this machine.
        listen: called in this process.
    """
    pool, queue = ray_pool.hands(count, address), deque(jobs)
    kind: Any = ray.remote(num_cpus=0)(Board)
    board = kind.remote()
    busy: dict[Any, tuple[Hand, Job]] = {}
    with interrupts.finishing_rounds():
        while queue or busy:
            idle = [hand for hand in pool if all(hand is not own for own, _ in busy.values())]
            for hand in idle:
                if queue and ray_pool.is_ready(hand):
                    job = queue.popleft()
                    busy[hand.actor.carry_out.remote(task, job, board)] = (hand, job)
            came, _ = ray.wait(list(busy), timeout=POLL) if busy else ([], [])
            for progress in ray.get(board.taken.remote(interrupts.wanted())):
                listen(progress)
            for ref in came:
                hand, job = busy.pop(ref)
                yield job, _outcome(ref, hand)
            if not busy:
                ray_pool.await_one(pool)


def _outcome(ref: Any, hand: Hand) -> str:
    try:
        return str(ray.get(ref))
    except ray.exceptions.RayTaskError as error:
        return f"{type(error.cause).__name__}: {error.cause}"
    except ray.exceptions.RayError:
        ray_pool.restart(hand)
        return "its worker died; go on with --resume"
