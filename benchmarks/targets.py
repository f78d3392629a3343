"""Targets of the benchmarks: ratios within one run, which hardly depend on the machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

Column = Literal["cpu_seconds", "wall_seconds", "peak_mib"]
Numbers = Mapping[tuple[str, str, str], float]  # by workload, case and engine
HEAD_MB = 0.052  # MB of a head's parameters: 1,281 x 10, four bytes each


class Verdict(Enum):
    """Verdict on a target; unknown if something was not measured."""

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Target:
    """A bound for a number of one engine, alone or relative to another engine.

    Attributes:
        workload, case, engine, column: Number that is bounded.
        limit: Bound.
        over: Engine whose number it is divided by.
        minus: Engine whose number is subtracted.
        at_least: Whether the bound is a lower one.
    """

    workload: str
    case: str
    engine: str
    limit: float
    column: Column = "cpu_seconds"
    over: str = ""
    minus: str = ""
    at_least: bool = False

    def __str__(self) -> str:
        beside = f" / {self.over}" if self.over else f" - {self.minus}" if self.minus else ""
        return f"{self.workload}, {self.case}: {self.engine}{beside}, {self.column}"


def judge(target: Target, numbers: Numbers) -> tuple[Verdict, float]:
    """Return the verdict on a target, and the number that decides it."""
    number = numbers.get((target.workload, target.case, target.engine))
    other = numbers.get((target.workload, target.case, target.over or target.minus))
    if number is None or ((target.over or target.minus) and not other):
        return Verdict.UNKNOWN, float("nan")
    value = number / (other or 1.0) if target.over else number - (other or 0.0)
    met = value >= target.limit if target.at_least else value <= target.limit
    return (Verdict.PASS if met else Verdict.FAIL), value


TINY, MCMAHAN = "tiny CNN, 10 per round", "McMahan CNN, 10 per round"
SOME, ALL, FINE = "10 per round", "100 per round", "4 per round"

TARGETS = (
    Target("W0", "1000 clients x 0.001M", "local", 0.4),
    Target("W0", "100 clients x 1M", "local", 0.35),
    Target("W0", "100 clients x 25M", "local", 3e9 / 2**20, "peak_mib"),
    Target("W1", MCMAHAN, "local", 1.0, over="floor"),
    Target("W1", TINY, "local", 0.80, over="floor"),
    Target("W1", MCMAHAN, "local", 1.05, over="optimised"),
    Target("W1", TINY, "local", 1.05, over="optimised"),
    Target("W1", MCMAHAN, "bf16", 0.7, over="floor"),
    Target("W1", MCMAHAN, "local", 1.0, over="pfl"),
    Target("W1", TINY, "local", 1.0, over="pfl"),
    Target("W1", MCMAHAN, "local", 1.7, "wall_seconds", over="ray", at_least=True),
    Target("W1", TINY, "local", 1.7, "wall_seconds", over="ray", at_least=True),
    Target("W2", ALL, "local", 0.30, over="floor"),
    Target("W2", ALL, "flower", 10.0, over="local", at_least=True),
    Target("W2", ALL, "local", 0.015 + 0.005 * HEAD_MB, minus="optimised"),
    Target("W2", ALL, "local", 1.0, over="pfl"),
    Target("W2", SOME, "local", 0.35, over="floor"),
    Target("W2", SOME, "flower", 8.0, over="local", at_least=True),
    Target("W2", SOME, "local", 0.015 + 0.005 * HEAD_MB, minus="optimised"),
    Target("W2", SOME, "local", 1.0, over="pfl"),
    Target("W3", FINE, "local", 0.65, over="floor"),
    Target("W3", FINE, "bf16", 0.45, over="floor"),
    Target("W3", FINE, "local", 1.05, over="optimised"),
    Target("W3", FINE, "local", 1.0, over="pfl"),
    Target("W4", "FLUTE job", "local", 15.0, "wall_seconds"),
    Target("W7", "ViT-S, LoRA", "local", 1.05, over="floor"),
    Target("W7", "ViT-S, head", "floor", 100.0, over="local", at_least=True),
    Target("W7", "ViT-S, head", "flower", 100.0, over="local", at_least=True),
    Target("start", "first round", "local", 6.0, "wall_seconds"),
    Target("start", "first round", "ray", 12.0, "wall_seconds"),
    Target("start", "second sweep cell", "local", 0.5, "wall_seconds"),
    Target("start", "second sweep cell", "ray", 0.5, "wall_seconds"),
)

W8 = "CIFAR-10, 50 per round"
GPU_TARGETS = (
    *(
        Target("W1", case, "floor", 3.0, "wall_seconds", over="local", at_least=True)
        for case in (MCMAHAN, TINY)
    ),
    Target("W5", "EM, ResNet-18", "local", 1.3, "wall_seconds", over="floor"),
    Target("W8", W8, "pfl", 3.0, "wall_seconds", over="local", at_least=True),
    Target("W8", W8, "flower", 20.0, "wall_seconds", over="local", at_least=True),
)
