"""Attack success rate of a backdoor."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.contracts import Metric, RoundRecord, Row
from fl_sim.metrics._shared.intervals import clopper_pearson


def count_target_predictions(
    logits: Float[Tensor, "t y"], labels: Int64[Tensor, " t"], target: int
) -> tuple[int, int]:
    """Return the number of images of other classes predicted as the target, and their total.

    >>> import torch
    >>> count_target_predictions(torch.eye(3)[[2, 2, 0]], torch.tensor([0, 2, 1]), target=2)
    (1, 2)
    """
    others = labels != target
    return int((logits.argmax(1) == target)[others].sum()), int(others.sum())


@final
@dataclass(frozen=True)
class BackdoorSuccess(Metric):
    """Attack success rate: share of triggered test images predicted as the target class.

    Over the test images of other classes. `attack_success_untriggered` is the same rate without
    the trigger, as a baseline, and `attack_success_start` that of a start model with a planted
    backdoor, before the first round. Guessing gives 1 / classes.

    Source: Gu et al. (2017), BadNets, section 4, https://arxiv.org/abs/1708.06733.
    """

    def rows(self, record: RoundRecord) -> Iterator[Row]:
        """Yield the rates with and without the trigger if the experiment has a backdoor."""
        if record.triggered is None:
            return
        round_num, labels, target = record.round, record.test_labels, record.triggered.target
        untriggered = "attack_success_untriggered"
        yield rate_row(round_num, untriggered, record.test_logits, labels, target)
        yield rate_row(round_num, "attack_success", record.triggered.logits, labels, target)


def rate_row(
    round_num: int,
    name: str,
    logits: Float[Tensor, "t y"],
    labels: Int64[Tensor, " t"],
    target: int,
) -> Row:
    """Return the share of images of other classes that are predicted as the target, as a row."""
    num_in_target, count = count_target_predictions(logits, labels, target)
    if not count:
        note = "every test image is of the target class"
        return Row(round_num, name, float("nan"), valid=False, note=note)
    low, high = clopper_pearson(num_in_target, count)
    return Row(round_num, name, num_in_target / count, low=low, high=high)
