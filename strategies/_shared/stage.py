"""Stages of a rule that changes with the round."""

from dataclasses import dataclass, field
from typing import Any

from fl_sim.contracts import AggregationRule
from fl_sim.core.errors import require
from fl_sim.core.serialization import TypeChecked
from strategies.fedavg import FedAvg


@dataclass(frozen=True)
class Stage(TypeChecked):
    """A rule, and the first round that it aggregates.

    Attributes:
        first_round: First round of the stage, from 1.
        rule: Rule from then on.
    """

    first_round: int = 1
    rule: AggregationRule = field(default_factory=FedAvg)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.first_round >= 1, "first_round", "at least 1", self.first_round)
        name = type(self.rule).__name__
        usable = not (self.rule.tune or self.rule.changes_base or len(self.rule.first_rounds) > 1)
        allowed = "one for trained networks that keeps frozen weights and has no stages itself"
        require(usable, "rule", allowed, name)


class StageList:
    """Constructor of a dataclass with a field `stages`, which takes pairs as well.

    >>> StageList((1, FedAvg())).stages[0].first_round
    1
    """

    stages: tuple[Stage, ...]

    def __init__(self, *pairs: Any, stages: tuple[Stage, ...] = (Stage(),)) -> None:
        """Set `stages`, by name or as one pair of a first round and a rule per argument."""
        made = tuple(Stage(*pair) if isinstance(pair, tuple) else pair for pair in pairs)
        object.__setattr__(self, "stages", made or stages)
        getattr(self, "__post_init__", lambda: None)()
