"""The interface of metrics."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from fl_sim.contracts.nouns import Row
from fl_sim.contracts.round_record import RoundRecord
from fl_sim.contracts.validity import gate


class Metric(ABC):
    """A family of numbers about a round, each a pure function of the round's record.

    `needs_scores` says that it reads logits.

    Every metric stands behind the gate of `fl_sim.contracts.validity`: a row that it yields after
    it has read logits that are not finite becomes NaN and invalid, and so does a row whose own
    number is not finite, whatever the metric says of it. So read logits after yielding the rows
    that need none.
    """

    needs_scores: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "rows" in cls.__dict__:
            cls.rows = gate(cls.__dict__["rows"])  # type: ignore[method-assign,assignment]

    @abstractmethod
    def rows(self, record: RoundRecord) -> Iterable[Row]:
        """Yield the numbers of this family."""
