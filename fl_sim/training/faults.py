"""Failures injected by `--inject`, to test that a run survives them."""

import os
import time
from dataclasses import dataclass, fields, replace

import torch

from fl_sim.contracts import Update
from fl_sim.core.errors import RequestError
from fl_sim.core.seeding import generator
from fl_sim.core.serialization import check_fields

DELAY = 0.2  # seconds by which a slow client is late
FOREVER = 3600.0  # seconds for which a hanging client sleeps
in_worker = False  # whether this process is a Ray worker, which a crash may end


def _to_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


class CrashError(RuntimeError):
    """Stands for the death of a worker in a process that is no worker."""


@dataclass(frozen=True)
class Faults:
    """Probabilities of each kind of failure, per attempt of a client.

    Attributes:
        crash: The worker dies; in a process that is no worker, the client raises an error.
        nan: The client sends an update of NaN.
        hang: The client never replies; needs `failures.timeout`.
        slow: The client is late, but otherwise works.
    """

    crash: float = 0.0
    nan: float = 0.0
    hang: float = 0.0
    slow: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        chances = [getattr(self, field.name) for field in fields(self)]
        if min(chances) < 0 or sum(chances) > 1:
            raise RequestError(f"--inject: chances are at least 0 and at most 1 in all; got {self}")

    def __str__(self) -> str:
        """Return the probabilities in the syntax of `--inject`; an empty string for none."""
        chances = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ",".join(f"{kind}:{float(chance)}" for kind, chance in chances if chance)

    @classmethod
    def parse(cls, text: str) -> "Faults":
        """Return the faults of a text such as `crash:0.1,nan:0.05`.

        Raises:
            RequestError: If a kind is unknown, or probabilities are outside 0 to 1.
        """
        kinds = [field.name for field in fields(cls)]
        chances: dict[str, float] = {}
        for part in text.split(","):
            kind, _, chance = part.partition(":")
            name, value = kind.strip(), _to_float(chance)
            if value is None:
                raise RequestError(f"--inject takes kind:chance, such as nan:0.1; got {part!r}")
            if name in chances:
                raise RequestError(f"--inject takes each kind once; got {name!r} twice")
            chances[name] = value
        unknown = sorted(set(chances) - set(kinds))
        if unknown:
            raise RequestError(f"--inject knows {', '.join(kinds)}; got {unknown[0]!r}")
        if not all(0 <= chance <= 1 for chance in chances.values()):
            raise RequestError(f"--inject: chances are at least 0 and at most 1 in all; got {text}")
        return cls(**chances)

    def draw(self, seed: int, round_num: int, client: int, attempt: int) -> str:
        """Return the fault of an attempt, or an empty string; the same on every engine."""
        if not any(getattr(self, field.name) for field in fields(self)):
            return ""
        rng = generator(seed, "fault", round_num, client, attempt)
        u = float(torch.rand((), dtype=torch.float64, generator=rng))
        for field in fields(self):
            u -= getattr(self, field.name)
            if u < 0:
                return field.name
        return ""

    def inject(self, seed: int, round_num: int, client: int, attempt: int) -> None:
        """Crash, hang or wait if such a fault is drawn for the attempt."""
        kind = self.draw(seed, round_num, client, attempt)
        if kind == "crash":
            if in_worker:
                os._exit(1)
            raise CrashError("injected")
        if kind in ("hang", "slow"):
            time.sleep(FOREVER if kind == "hang" else DELAY)

    def corrupt(self, update: Update, seed: int, round_num: int, attempt: int) -> Update:
        """Return the update, or one of NaN if that fault is drawn for the attempt."""
        if self.draw(seed, round_num, update.client, attempt) != "nan":
            return update
        assert update.delta is not None
        return replace(update, delta=torch.full_like(update.delta, torch.nan), norm=float("nan"))


NO_FAULTS = Faults()
