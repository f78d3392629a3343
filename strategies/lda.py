"""Linear discriminant analysis as a federated head of one round."""

from dataclasses import dataclass
from typing import ClassVar, final

from fl_sim.core.errors import require
from strategies._shared.closed_form import (
    ClosedFormRule,
    Head,
    Moments,
    Regression,
    decompose,
    solve_gaussian,
)


@final
@dataclass(frozen=True)
class LinearDiscriminant(ClosedFormRule):
    """Gaussian classes of one covariance, from counts and moments in one round.

    Logits are log posteriors: x^T S^-1 m_y - m_y^T S^-1 m_y / 2 + log p_y, with the shares p and
    means m of the classes and the covariance S within classes, which is shrunk towards a multiple
    of the identity. The head is that of the pooled features, whatever the partition. A class
    without examples has the mean of all and the share of half an example. Selected by
    `model.tune=lda`, together with `StatisticsClient` and a single round.

    Source: Turazza et al. (2026), GH-OFL, https://arxiv.org/abs/2602.01186; the choice of the
    shrinkage, by the regression with the same directions, is this project's.

    Attributes:
        rule: Rule that aggregates the statistics.
        clip: Largest norm of a client's class shares, class sums and second moments, each as a
            multiple of the median norm over clients; None does not clip.
        shrinkage: Share of the identity, in [0, 1]; None: that of the penalty which `RidgeHead`
            chooses by generalised cross-validation, from the same moments and no further images.
    """

    tune: ClassVar[str] = "lda"
    shrinkage: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        share = self.shrinkage
        require(share is None or 0 <= share <= 1, "shrinkage", "in [0, 1], or None", share)

    def solve_moments(self, moments: Moments) -> Head:
        """Return the head of Gaussian classes with the covariance within classes."""
        values, vectors = decompose(moments.within())
        values = values.clamp(min=0)  # noise can make them negative
        share = self.shrinkage
        if share is None:
            penalty, variance = Regression.of(moments).choose_penalty(), float(values.mean())
            share = penalty / (penalty + variance) if penalty > 0 else 0.0
        return solve_gaussian(moments, values, vectors, share)
