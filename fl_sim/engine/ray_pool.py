"""Ray's workers, started once a process and kept warm from run to run."""

import os
from dataclasses import dataclass, field
from typing import Any

import ray

from fl_sim.engine import loopback
from fl_sim.engine.orders import Chunk
from fl_sim.engine.ray_worker import Worker, share_tensors
from fl_sim.errors import RequestError, RunFailedError

PATIENCE = 120.0  # seconds for a worker to be ready, where there is no other
STARTS = 3  # in a row that may fail before a run gives up


@dataclass(eq=False)
class Call:
    """A chunk, or one client of it alone, that a worker has been given."""

    position: int
    tasks: Chunk
    alone: bool = False
    ref: Any = None
    started: float = 0.0


@dataclass(eq=False)
class Hand:
    """A worker as its crew sees it: the calls that it holds, oldest first."""

    actor: Any = None
    starting: Any = None  # answered once it has imported, or loaded, everything; then None
    loaded: Any = None  # the package of the run that it is ready for
    held: list[Call] = field(default_factory=list)
    failed_starts: int = 0  # in a row


_pool: list[Hand] = []
_address: str | None = None  # of the cluster that this process has joined


def hands(count: int, address: str | None = None) -> list[Hand]:
    """Return warm workers, starting Ray and those that are missing.

    Raises:
        RequestError: where no cluster answers at `address`.
        RunFailedError: where Ray does not start on this machine.
    """
    if ray.is_initialized() and (address != _address or (address is None and count > _cpus())):
        ray.shutdown()
    if not ray.is_initialized():
        _pool.clear()  # whoever was there went with an earlier Ray
        _start(count, address)
    for hand in _pool[count:]:
        ray.kill(hand.actor)
    del _pool[count:]
    while len(_pool) < count:
        _pool.append(Hand())
        restart(_pool[-1])
    return _pool


def _start(count: int, address: str | None) -> None:
    global _address
    os.environ.setdefault("RAY_worker_niceness", "0")  # else workers yield to their own driver
    quiet: Any = {"log_to_driver": False, "logging_level": "ERROR"}
    cause = "" if address else loopback.why_not_start()
    if cause:
        raise RequestError(f"Ray cannot start: {cause}")
    try:
        if address is None:
            with loopback.only_here():
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


def restart(hand: Hand) -> None:
    """Replace a worker, which may be dead already, by a fresh one."""
    if hand.actor is not None:
        ray.kill(hand.actor)
    kind: Any = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(Worker)
    hand.actor = kind.remote()
    hand.starting, hand.loaded, hand.held = hand.actor.ready.remote(), None, []
    hand.failed_starts = 0


def is_ready(hand: Hand, package: Any = None) -> bool:
    """Return whether a worker can be given something to do, with the data of a run at hand.

    None stands for work that needs none. A worker that dies before it is ready is replaced: no
    client had a part in it.

    Raises:
        RunFailedError: where workers cannot be started at all.
    """
    while hand.starting is not None and ray.wait([hand.starting], timeout=0)[0]:
        try:
            ray.get(hand.starting)
            hand.starting = None
        except ray.exceptions.RayError as error:
            failed = hand.failed_starts + 1
            if failed >= STARTS:
                cause = (str(error).splitlines() or [""])[-1]
                raise RunFailedError(f"workers of Ray die as they start: {cause}") from error
            restart(hand)
            hand.failed_starts = failed
    if hand.starting is None and package is not None and hand.loaded is not package:
        hand.starting, hand.loaded = hand.actor.load.remote(package), package
    if hand.starting is None:
        hand.failed_starts = 0
    return hand.starting is None


def await_one(pool: list[Hand]) -> None:
    """Wait until a worker is ready.

    Raises:
        RunFailedError: where none is in good time.
    """
    starting = [hand.starting for hand in pool if hand.starting is not None]
    came, _ = ray.wait(starting, num_returns=1, timeout=PATIENCE) if starting else ([1], [])
    if not came:
        raise RunFailedError(f"no worker of Ray was ready within {PATIENCE:.0f} s")


def _cpus() -> float:
    found: Any = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return float(found.get("CPU", 0))
