"""Fairness over clients: pure functions of a vector with one value a client."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Metric, Observation, Row
from fl_sim.metrics.accuracy import client_accuracies, client_groups


def spread(values: Float[Tensor, " k"]) -> float:
    """Return the population standard deviation; 0 is even."""
    return float(values.double().std(correction=0))


def worst_share(values: Float[Tensor, " k"], share: float = 0.1) -> float:
    """Return the mean of the lowest `share` of the values, at least one of them.

    Source: Li et al. (2020), q-FFL, section 4, https://arxiv.org/abs/1905.10497.
    """
    count = max(1, int(share * len(values) + 1e-9))  # 0.29 * 100 comes out below 29
    return float(values.double().sort().values[:count].mean())


def best_share(values: Float[Tensor, " k"], share: float = 0.1) -> float:
    """Return the mean of the highest `share` of the values, at least one of them."""
    return -worst_share(-values, share)


def jain(values: Float[Tensor, " k"]) -> float:
    """Return Jain's index, from 1 / k (one has all) to 1 (even).

    Source: Jain et al. (1984), https://arxiv.org/abs/cs/9809099.

    >>> jain(torch.tensor([1.0, 0.0]))
    0.5
    """
    x = values.double()
    return float(x.sum() ** 2 / (len(x) * x.square().sum())) if bool(x.any()) else 1.0


def gini(values: Float[Tensor, " k"]) -> float:
    """Return Gini's coefficient, from 0 (even) to 1 - 1 / k.

    >>> gini(torch.tensor([1.0, 0.0]))
    0.5
    """
    x = values.double()
    total = len(x) ** 2 * x.mean()
    return float((x[:, None] - x).abs().sum() / (2 * total)) if float(total) else 0.0


def entropy(values: Float[Tensor, " k"]) -> float:
    """Return the entropy of the shares over its maximum, from 0 (one has all) to 1 (even).

    >>> entropy(torch.tensor([1.0, 1.0, 1.0]))
    1.0
    """
    x = values.double()
    if len(x) < 2 or not bool(x.any()):
        return 1.0
    shares = x / x.sum()
    return float(torch.special.entr(shares).sum() / torch.tensor(len(x)).double().log())


@final
@dataclass(frozen=True)
class Fairness(Metric):
    """How evenly the global model serves the clients, and what protecting costs a client.

    Source: Li et al. (2020), q-FFL, https://arxiv.org/abs/1905.10497, and the fairness report
    of FederatedScope; an even federation has spread 0, Jain 1, Gini 0, entropy 1.
    """

    def rows(self, seen: Observation) -> Iterator[Row]:
        """Yield the statistics of the clients' accuracies."""
        accuracies = client_accuracies(seen)
        numbers = {
            "fairness_spread": spread(accuracies),
            "fairness_worst_10_percent": worst_share(accuracies),
            "fairness_best_10_percent": best_share(accuracies),
            "fairness_worst_client": float(accuracies.min()),
            "fairness_jain": jain(accuracies),
            "fairness_gini": gini(accuracies),
            "fairness_entropy": entropy(accuracies),
        }
        for name, value in numbers.items():
            yield Row(seen.round, name, value)
        yield self._gap(seen, accuracies)

    def _gap(self, seen: Observation, accuracies: Float[Tensor, " k"]) -> Row:
        """Return the accuracy of protected clients minus that of clean ones."""
        groups = client_groups(seen)
        means = [
            accuracies[torch.tensor([own == group for own in groups])].mean()
            for group in ("protected", "clean")
        ]
        there = "protected" in groups and "clean" in groups
        note = "" if there else "no clients to compare: all protect alike"
        gap = float(means[0] - means[1])
        return Row(seen.round, "fairness_protected_gap", gap, valid=there, note=note)
