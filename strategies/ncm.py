"""Nearest class mean as a federated head of one round."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from strategies._shared.closed_form import ClosedFormRule, Head, Moments


@final
@dataclass(frozen=True)
class NearestClassMean(ClosedFormRule):
    """The class whose mean of features is nearest, from class sums and shares in one round.

    The logit of a class is -|x - mean|^2 / (2 v), up to a term that is the same for all: with the
    variance v of a feature within classes, that of Gaussian classes of equal share and one
    spherical covariance. v changes no decision. A class without examples has the mean of all.

    The means are those of the pooled features, whatever the partition. Selected by
    `model.tune=ncm`, together with `StatisticsClient` and a single round.

    Source: Legate et al. (2023), FedNCM, https://arxiv.org/abs/2306.03937; with Euclidean
    distances, as scikit-learn's NearestCentroid, instead of normalised means.

    Attributes:
        rule: Rule that aggregates the statistics.
        clip: Largest norm of a client's class shares and class sums, each as a multiple of the
            median norm over clients; None does not clip.
    """

    tune: ClassVar[str] = "ncm"

    def solve_moments(self, moments: Moments) -> Head:
        """Return the class means over the variance, and the bias of their lengths."""
        means = moments.class_means
        lengths = means.square().sum(1)
        spread = (moments.squares.sum() - moments.shares @ lengths) / means.shape[1]
        smallest = torch.finfo(torch.float64).eps * lengths.max().clamp(min=1e-30)
        variance = spread.clamp(min=float(smallest))
        return means / variance, -lengths / (2 * variance)
