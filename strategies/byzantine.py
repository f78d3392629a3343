"""What rules share that are asked to survive a number of attackers."""

from abc import ABC

from fl_sim import description
from fl_sim.contracts import InformedRule
from fl_sim.errors import require


class ByzantineRule(InformedRule, ABC):
    """A rule with a field `num_byzantine`, the number of attackers to survive."""

    num_byzantine: int

    def __post_init__(self) -> None:
        description.check_types(self)
        require(self.num_byzantine >= 0, "num_byzantine", "at least 0", self.num_byzantine)
