"""Ridge regression as a federated head of one round."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from fl_sim.core.errors import require, require_at_least
from strategies._shared.closed_form import ClosedFormRule, Head, Moments, Regression

SMALLEST = 1e-3  # residual variance
LARGEST = 1e30  # penalty


@final
@dataclass(frozen=True)
class RidgeHead(ClosedFormRule):
    """Ridge regression of the classes on the features, from their moments in one round.

    W = (S + l I)^-1 B with the covariance S of the features and their covariances B with the
    one-hot labels; the intercept is not penalised. It is the head that the pooled features give,
    for any partition and number of clients. Clients send moments and no local solutions, hence need
    no regularisation of their own, however few images they hold: AFL's absolute aggregation of
    local solutions, with its regularisation removed again, gives the same head.

    The penalty l is chosen by generalised cross-validation, which is computed from the same
    moments: no image is set aside, and no test image is used. The logits are the regression over
    half its squared error on new examples, which changes no decision: with Gaussian errors in two
    classes, that of the image and the one it is taken for, the softmax is then a probability.

    Under noise (`StatisticsClient.noise_multiplier`) the moments may have negative eigenvalues.
    They count as zero, and only penalties above the most negative one are considered: noise is at
    least as large. Selected by `model.tune=ridge`, together with `StatisticsClient` and a single
    round.

    Source: Fani et al. (2024), Fed3R, https://arxiv.org/abs/2406.01116; He et al. (2025), AFL,
    https://arxiv.org/abs/2405.16240; the penalty by Golub, Heath and Wahba (1979),
    https://doi.org/10.1080/00401706.1979.10489751.

    Attributes:
        rule: Rule that aggregates the statistics.
        clip: Largest norm of a client's class shares, class sums and second moments, each as a
            multiple of the median norm over clients; None does not clip.
        regularization: Penalty l as a multiple of the mean variance of a feature; 0 gives the least
            squares of smallest norm, None generalised cross-validation.
    """

    tune: ClassVar[str] = "ridge"
    regularization: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "regularization", or_none=True)
        given = self.regularization
        allowed = f"at most {LARGEST:g}: the head would be zero"
        require(given is None or given <= LARGEST, "regularization", allowed, given)

    def solve_moments(self, moments: Moments) -> Head:
        """Return the regression and its intercept, over the variance of the residuals."""
        regression = Regression.of(moments)
        given = self.regularization
        scale = float(regression.values.mean())
        penalty = regression.choose_penalty() if given is None else given * scale
        chosen = torch.tensor([penalty], dtype=torch.float64)
        weight = (regression.along * regression.invert(chosen)) @ regression.vectors.T
        bias = moments.shares - weight @ moments.mean
        variance = max(float(regression.estimate_errors(chosen)) / 2, SMALLEST)
        return weight / variance, bias / variance
