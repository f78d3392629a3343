"""Metric plug-ins: rows of numbers about a round."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from fl_sim.contracts.nouns import Row
from fl_sim.contracts.round_record import RoundRecord
from fl_sim.contracts.validity import gate


class Metric(ABC):
    """A family of numbers about a round, each a pure function of the round's record.

    Rows pass through `fl_sim.contracts.validity.gate`: a row that is yielded after the metric has
    read logits that are not finite becomes NaN and invalid, and so does a row whose value is not
    finite. So yield rows that need no logits before reading any.

    Attributes:
        needs_scores: Whether it reads logits, which exist only in evaluated rounds.
    """

    needs_scores: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "rows" in cls.__dict__:
            cls.rows = gate(cls.__dict__["rows"])  # type: ignore[method-assign,assignment]

    @abstractmethod
    def rows(self, record: RoundRecord) -> Iterable[Row]:
        """Yield the rows of this family."""
