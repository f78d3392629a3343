"""Families of inputs: each makes its corpus once, and tries one mutated input at a time."""

import random
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.data.partition import Iid
from strategies.fedavg import FedAvg


class Family(ABC):
    """A family of inputs."""

    name: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        """Make the corpus in an empty folder."""
        self.folder = folder

    @abstractmethod
    def attempt(self, rng: random.Random) -> bool:
        """Try one input in `self.folder / "input"`, and return whether it was accepted.

        Raises:
            SilentChangeError: If it was accepted with a result other than it states.
        """


def small_experiment(**fields: Any) -> Experiment:
    """Return an experiment that takes a tenth of a second per round."""
    usual: dict[str, Any] = {
        "name": "fuzz",
        "client": SgdClient(),
        "strategy": FedAvg(),
        "partition": Iid(),
        "model": Model("small_cnn", norm="group"),
        "data": Data(dataset="digits", num_clients=3, num_samples=90, num_test=40),
        "rounds": 1,
    }
    return Experiment(**(usual | fields))
