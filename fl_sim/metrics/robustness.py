"""Robustness of the global model: accuracy on corrupted and on attacked test images."""

from collections.abc import Collection, Iterator, Mapping

from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.contracts import Row
from fl_sim.contracts.validity import DIVERGED, invalidate, mark_undefined
from fl_sim.metrics._shared.intervals import clopper_pearson

UNCHANGED = "the corruption changes no image of this size"
MOST_MASKED = 0.1  # share of attacked images without a gradient above which a rate is not valid


def corruption_rows(
    round_num: int,
    clean: Float[Tensor, "t y"],
    corrupted: Mapping[str, Float[Tensor, "t y"]],
    labels: Int64[Tensor, " t"],
    unchanged: Collection[str] = (),
) -> Iterator[Row]:
    """Yield the accuracy under each corruption, their mean, and its relative drop.

    Guessing gives 1 / classes. `corruption_mean_accuracy` is the mean over corruptions (mCA), and
    `corruption_drop` is the share of the clean accuracy that is lost: 0 for a model that ignores
    corruptions, and negative for one that they help.

    Source: Hendrycks and Dietterich (2019), section 4, https://arxiv.org/abs/1903.12261, without
    their division by the errors of AlexNet.

    Args:
        round_num: Number of the round.
        clean: Logits of the test images.
        corrupted: Logits of the corrupted test images, by name of the corruption.
        labels: Labels of the test images.
        unchanged: Corruptions that change no image, such as a blur by less than a pixel. They have
            no accuracy, and are no part of the mean.
    """
    scores = [clean, *corrupted.values()]
    diverged = not all(bool(logits.isfinite().all()) for logits in scores)
    right = [int((logits.argmax(1) == labels).sum()) for logits in scores]
    accuracies = [count / len(labels) if len(labels) else float("nan") for count in right]
    rows = [
        invalidate(Row(round_num, "corruption_accuracy", float("nan"), group=name), UNCHANGED)
        if name in unchanged
        else _make_rate(round_num, "corruption_accuracy", count, len(labels), name)
        for name, count in zip(corrupted, right[1:], strict=True)
    ]
    pairs = zip(corrupted, accuracies[1:], strict=True)
    changed = [accuracy for name, accuracy in pairs if name not in unchanged]
    mean = sum(changed) / len(changed) if changed else float("nan")
    note = "" if changed else UNCHANGED
    rows.append(mark_undefined(Row(round_num, "corruption_mean_accuracy", mean, note=note)))
    drop = 1 - mean / accuracies[0] if accuracies[0] else float("nan")
    note = note if accuracies[0] else "no clean image is classified correctly"
    rows.append(mark_undefined(Row(round_num, "corruption_drop", drop, note=note)))
    yield from (invalidate(row, DIVERGED) for row in rows) if diverged else rows


def adversarial_rows(
    round_num: int, num_right: int, num_robust: int, num_masked: int, count: int
) -> Iterator[Row]:
    """Yield the accuracy on attacked images, and what the attack takes from the clean accuracy.

    An image counts if it is classified correctly both as it is and after the attack. Guessing
    gives at most 1 / classes. Images without a gradient cannot be attacked this way, so that the
    accuracy is not valid if they are more than a tenth (gradient masking: Athalye et al. 2018,
    https://arxiv.org/abs/1802.00420).

    Args:
        round_num: Number of the round.
        num_right: Number of images that are classified correctly as they are.
        num_robust: Number of these that are so after the attack.
        num_masked: Number of these without a gradient of the loss.
        count: Number of all images.
    """
    rows = [_make_rate(round_num, "adversarial_accuracy", num_robust, count)]
    lost = (num_right - num_robust) / count if count else float("nan")
    rows.append(mark_undefined(Row(round_num, "adversarial_drop", lost)))
    masked = num_masked / num_right if num_right else 0.0
    note = f"no gradient on {masked:.0%} of the images: the attack cannot see the model"
    yield from (invalidate(row, note) for row in rows) if masked > MOST_MASKED else rows


def _make_rate(round_num: int, name: str, successes: int, trials: int, group: str = "all") -> Row:
    low, high = clopper_pearson(successes, trials)
    value = successes / trials if trials else float("nan")
    return mark_undefined(Row(round_num, name, value, group=group, low=low, high=high))
