"""Calibration: agreement of a model's probabilities with the shares of correct predictions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from fl_sim.contracts import Metric, RoundRecord, Row

BINS = 15


def expected_calibration_error(
    probabilities: Float[Tensor, "t y"], labels: Int64[Tensor, " t"], num_bins: int = BINS
) -> float:
    """Return the mean gap between confidence and accuracy, over bins of equal width; 0 is best.

    The confidence of a prediction is its probability. Predictions are put into bins
    ((m - 1) / bins, m / bins] by confidence, and the gap of each bin is weighted by its share of
    the images. NaN without any image.

    The number is biased upwards on few images, since a bin's accuracy is measured on few: a model
    that is calibrated perfectly reads up to about 0.4 sqrt(bins / images), which is 0.15 for 100
    images, 0.05 for 1,000 and 0.015 for 10,000.

    Source: Guo et al. (2017), On Calibration of Modern Neural Networks, equation 3,
    https://arxiv.org/abs/1706.04599.

    >>> probabilities = torch.tensor([[0.75, 0.25]] * 4)
    >>> expected_calibration_error(probabilities, torch.tensor([0, 0, 0, 0]))
    0.25
    """
    if not len(labels):
        return float("nan")
    confidences, predictions = probabilities.double().max(1)
    # One above its edge by rounding, as 0.2 * 15 is, would fall into the next bin.
    bins = (confidences * num_bins - 1e-9).ceil().long().clamp(1, num_bins) - 1
    gaps = (predictions == labels).double() - confidences
    sums = torch.zeros(num_bins, dtype=torch.float64).index_add_(0, bins, gaps)
    return float(sums.abs().sum() / len(labels))


def brier_score(probabilities: Float[Tensor, "t y"], labels: Int64[Tensor, " t"]) -> float:
    """Return the mean squared distance between probabilities and one-hot labels, from 0 to 2.

    0 is best. Equal probabilities for y classes give 1 - 1 / y, and a model that is certain and
    wrong gives 2. Unlike the calibration error it is a proper score, and has no bias on few
    images. NaN without any image.

    Source: Brier (1950), https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.

    >>> brier_score(torch.tensor([[0.5, 0.5]]), torch.tensor([1]))
    0.5
    """
    targets = functional.one_hot(labels, probabilities.shape[1]).double()
    return float((probabilities.double() - targets).square().sum(1).mean())


@final
@dataclass(frozen=True)
class Calibration(Metric):
    """Expected calibration error and Brier score of the global model on clean test images.

    Probabilities are the softmax of the logits. Equal probabilities for y classes give a Brier
    score of 1 - 1 / y, and a calibration error near 0.

    Source: Guo et al. (2017), equation 3, https://arxiv.org/abs/1706.04599; Brier (1950).
    """

    def rows(self, record: RoundRecord) -> Iterator[Row]:
        """Yield both numbers."""
        probabilities = record.test_logits.double().softmax(1)
        error = expected_calibration_error(probabilities, record.test_labels)
        yield Row(record.round, "calibration_error", error)
        yield Row(record.round, "brier_score", brier_score(probabilities, record.test_labels))
