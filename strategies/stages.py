"""A rule that changes with the round."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, final

from fl_sim.contracts import (
    AggregationResult,
    AggregationRule,
    Draw,
    InformedRule,
    Releases,
    RoundContext,
    Updates,
    Weights,
)
from fl_sim.core.errors import RequestError, require
from fl_sim.core.serialization import label
from strategies._shared.stage import Stage, StageList


@final
@dataclass(frozen=True, init=False)
class Stages(StageList, InformedRule):
    """One rule after another: each aggregates from its first round up to that of the next.

    `Stages((1, TrimmedMean(2)), (6, Krum(1)))` trims in rounds 1 to 5 and then selects. Each stage
    has a state of its own, as on a server of its own: the momentum of one is not handed to the
    next, and starts at zero in the stage's first round. No privacy is accounted for, since no
    guarantee is known for releases of several rules. It is not wrapped; wrap the rule of each
    stage instead.

    Source: this project.

    Attributes:
        stages: Stages in order, the first from round 1; pairs in place of a `Stage` are allowed.
    """

    stages: tuple[Stage, ...] = (Stage(),)

    def __post_init__(self) -> None:
        super().__post_init__()
        rounds = self.first_rounds
        fits = rounds[:1] == (1,) and all(one < next_ for one, next_ in pairwise(rounds))
        allowed = "stages in order of their first rounds, the first of them from round 1"
        require(fits, "stages", allowed, str(rounds))

    def __str__(self) -> str:
        """Return the rules and the first rounds of all but the first, for a table."""
        first, *rest = [str(label(stage.rule)) for stage in self.stages]
        changes = zip(rest, self.first_rounds[1:], strict=True)
        return "".join([first, *(f", then {rule} from round {number}" for rule, number in changes)])

    @property
    def first_rounds(self) -> tuple[int, ...]:
        """First round of each stage."""
        return tuple(stage.first_round for stage in self.stages)

    def at_round(self, round_num: int) -> AggregationRule:
        """Return the rule of the stage in a round."""
        return self.stages[self._find_place(round_num)].rule

    def get_state(self, state: Any, round_num: int) -> Any:
        """Return the state of the stage in a round."""
        return state[self._find_place(round_num)]

    def set_state(self, state: Any, round_num: int, new: Any) -> Any:
        """Return the states of all stages, with that of the stage in a round replaced."""
        place = self._find_place(round_num)
        return [new if i == place else each for i, each in enumerate(state)]

    def _find_place(self, round_num: int) -> int:
        return sum(first <= round_num for first in self.first_rounds) - 1

    @property
    def needs_losses(self) -> bool:
        """True if a stage reads losses."""
        return any(stage.rule.needs_losses for stage in self.stages)

    @property
    def root_samples(self) -> int:
        """Largest number of clean images that a stage needs on the server."""
        return max(stage.rule.root_samples for stage in self.stages)

    @property
    def min_updates(self) -> int:
        """Fewest updates for which every stage is defined."""
        return max(stage.rule.min_updates for stage in self.stages)

    @property
    def max_updates(self) -> int | None:
        """Most updates that every stage can aggregate."""
        most = [stage.rule.max_updates for stage in self.stages]
        return min((count for count in most if count is not None), default=None)

    def releases(self, draws: Sequence[Draw]) -> Releases | None:
        """Return None, or refuse stages that add noise: no guarantee is known for them.

        Raises:
            RequestError: If a stage adds noise.
        """
        if any(stage.rule.releases(draws) is not None for stage in self.stages):
            raise RequestError("no guarantee is known for a rule that changes with the round")
        return None

    def initial_state(self, num_parameters: int) -> Any:
        """Return the first state of each stage."""
        return [stage.rule.initial_state(num_parameters) for stage in self.stages]

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the result of the stage in the context's round."""
        number = context.round
        inner = self.get_state(state, number)
        result = self.at_round(number).decide(inner, updates, weights, context)
        return replace(result, state=self.set_state(state, number, result.state))
