"""Ray's workers, started once a process and kept warm from run to run."""

import os
from dataclasses import dataclass, field
from typing import Any

import ray

from fl_sim.engine.orders import Chunk
from fl_sim.engine.ray_worker import Worker, share_tensors
from fl_sim.errors import RequestError, RunFailedError

PATIENCE = 120.0  # seconds for a worker to be ready, where there is no other


@dataclass(eq=False)
class Call:
    """A chunk, or a part of one, that a worker has been given."""

    position: int
    tasks: Chunk
    ref: Any = None
    started: float = 0.0


@dataclass(eq=False)
class Hand:
    """A worker as its crew sees it: the calls that it holds, oldest first."""

    actor: Any = None
    starting: Any = None  # answered once everything is imported; None from then on
    loaded: Any = None  # the package of the run that it is ready for
    held: list[Call] = field(default_factory=list)


_pool: list[Hand] = []


def hands(count: int, address: str | None = None) -> list[Hand]:
    """Return warm workers, starting Ray and those that are missing.

    Raises:
        RequestError: where no cluster answers at `address`.
    """
    if ray.is_initialized() and address is None and count > _cpus():
        ray.shutdown()
        _pool.clear()
    if not ray.is_initialized():
        _start(count, address)
    for hand in _pool[count:]:
        ray.kill(hand.actor)
    del _pool[count:]
    while len(_pool) < count:
        _pool.append(Hand())
        restart(_pool[-1])
    return _pool


def _start(count: int, address: str | None) -> None:
    os.environ.setdefault("RAY_worker_niceness", "0")  # else workers yield to their own driver
    quiet: Any = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            ray.init(num_cpus=count, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        cause = (str(error).splitlines() or ["no answer"])[0]
        raise RequestError(f"--ray-address: no Ray cluster at {address!r} ({cause})") from None
    share_tensors()


def restart(hand: Hand) -> None:
    """Replace a worker, which may be dead already, by a fresh one."""
    if hand.actor is not None:
        ray.kill(hand.actor)
    kind: Any = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(Worker)
    hand.actor = kind.remote()
    hand.starting, hand.loaded, hand.held = hand.actor.ready.remote(), None, []


def is_ready(hand: Hand) -> bool:
    """Return whether a worker can be given something to do."""
    if hand.starting is not None:
        came, _ = ray.wait([hand.starting], timeout=0)
        if came:
            try:
                ray.get(hand.starting)
                hand.starting = None
            except ray.exceptions.RayError:
                restart(hand)
    return hand.starting is None


def load(hand: Hand, package: Any) -> None:
    """Give a worker the data of a run, unless it has it; its calls are worked off in order."""
    if hand.loaded is not package:
        hand.actor.load.remote(package)
        hand.loaded = package


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
