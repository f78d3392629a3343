"""Noise that every owner makes for itself is made side by side, before the runs that need it."""

from typing import Any, NamedTuple

from fl_sim import process
from fl_sim.engine import interrupts
from fl_sim.engine.federation import dataset_of
from fl_sim.engine.pool import make_noise, noise_owners
from fl_sim.engine.progress import Listener
from fl_sim.experiment import Experiment
from fl_sim.workers import side_by_side


class Order(NamedTuple):
    """One owner of one experiment."""

    experiment: Experiment
    owner: int


def make(experiments: list[Experiment], workers: int) -> None:
    """Make the noise of all owners and leave it in the cache; a single owner's can wait.

    Same bits as in the run itself, which finds them there. What cannot be made is left for the
    run, where it is recorded.
    """
    if workers < 2:
        return
    orders: dict[Any, Order] = {}  # by all that the noise depends on
    for own in experiments:
        if own.layout.provenance != "shared":
            what = (own.protection, own.data, own.partition, own.seed)
            whose = (own.layout.provenance, own.layout.num_owners)
            for owner in noise_owners(own, dataset_of(own)):
                orders.setdefault((*what, *whose, owner), Order(own, owner))
    if len(orders) < 2:
        return
    jobs = list(orders.values())
    for _ in side_by_side(_attempt, jobs, min(workers, len(jobs)), lambda progress: None):
        pass


def _attempt(order: Order, listen: Listener) -> None:
    if interrupts.wanted():
        return
    process.settle()
    try:
        make_noise(order.experiment, dataset_of(order.experiment), order.owner)
    except Exception:
        return  # the run itself meets the same fault, and says so
