"""Fairness over clients: statistics of a vector with one value per client.

Values that are NaN (not defined) are left out; the result is NaN if none remains. These
statistics have no chance level: 0 or 1 marks an even federation, as stated for each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Metric, RoundRecord, Row
from fl_sim.contracts.validity import mark_undefined
from fl_sim.metrics._shared.defined import mean, note_left_out, select_defined
from fl_sim.metrics._shared.groups import ATTACKER, gap_rows, mean_rows
from fl_sim.metrics.accuracy import client_accuracies, client_groups
from fl_sim.metrics.domains import domain_rows

PERCENT_SQUARED = 1e4
NAN = float("nan")


def spread(values: Float[Tensor, " k"]) -> float:
    """Return the population standard deviation; 0 is even."""
    x = select_defined(values).double()
    return float(x.std(correction=0)) if len(x) else NAN


def variance(values: Float[Tensor, " k"]) -> float:
    """Return the population variance in percent squared, as papers print it; 0 is even.

    Values of 0.8 and 0.9 are 5 percent from their mean, so that their variance is 25.

    Source: Li et al. (2020), q-FFL, table 1, https://arxiv.org/abs/1905.10497.
    """
    x = select_defined(values).double()
    return PERCENT_SQUARED * float(x.var(correction=0)) if len(x) else NAN


def parity_gap(values: Float[Tensor, " k"]) -> float:
    """Return the highest value minus the lowest; 0 is even."""
    x = select_defined(values).double()
    return float(x.max() - x.min()) if len(x) else NAN


def worst_share(values: Float[Tensor, " k"], share: float = 0.1) -> float:
    """Return the mean of the lowest `share` of the values, at least one of them.

    Source: Li et al. (2020), q-FFL, section 4, https://arxiv.org/abs/1905.10497.
    """
    x = select_defined(values).double().sort().values
    count = max(1, int(share * len(x) + 1e-9))  # 0.29 * 100 comes out below 29
    return float(x[:count].mean())


def best_share(values: Float[Tensor, " k"], share: float = 0.1) -> float:
    """Return the mean of the highest `share` of the values, at least one of them."""
    return -worst_share(-values, share)


def cvar(values: Float[Tensor, " k"], share: float = 0.1) -> float:
    """Return the conditional value at risk: the mean of the worst `share` of the distribution.

    Unlike `worst_share` it does not round: of 15 values, a share of 0.1 is the lowest value and
    half of the next. Low values are bad, so that it equals the maximum over c of
    c - mean(max(c - x, 0)) / share: the lowest value for small shares, the mean for 1.

    Source: Rockafellar and Uryasev (2000), https://doi.org/10.21314/JOR.2000.038.

    >>> cvar(torch.tensor([0.0, 1.0, 1.0]), share=0.5)
    0.3333333333333333
    """
    x = select_defined(values).double().sort().values
    mass = share * len(x)
    taken = (mass - torch.arange(len(x), dtype=torch.float64)).clamp(0, 1)
    return float(taken @ x / taken.sum())


def jain(values: Float[Tensor, " k"]) -> float:
    """Return Jain's index, from 1 / k (one client has all) to 1 (even).

    Source: Jain et al. (1984), https://arxiv.org/abs/cs/9809099.

    >>> jain(torch.tensor([1.0, 0.0]))
    0.5
    """
    x = select_defined(values).double()
    if not bool(x.any()):
        return 1.0 if len(x) else NAN
    return float(x.sum() ** 2 / (len(x) * x.square().sum()))


def gini(values: Float[Tensor, " k"]) -> float:
    """Return Gini's coefficient of values of at least 0, from 0 (even) to 1 - 1 / k.

    It is the mean difference of two clients over twice the mean. In sorted order, a value is
    added once per client below it and subtracted once per client above it.

    >>> gini(torch.tensor([1.0, 0.0]))
    0.5
    """
    x = select_defined(values).double().sort().values
    total = len(x) * x.sum()
    if not float(total):
        return 0.0 if len(x) else NAN
    below_minus_above = 2 * torch.arange(len(x), dtype=torch.float64) - len(x) + 1
    return float(below_minus_above @ x / total)


def entropy(values: Float[Tensor, " k"]) -> float:
    """Return the entropy of the shares over its maximum, from 0 (one client has all) to 1 (even).

    >>> entropy(torch.tensor([1.0, 1.0]))
    1.0
    """
    x = select_defined(values).double()
    if len(x) < 2 or not bool(x.any()):
        return 1.0 if len(x) else NAN
    shares = x / x.sum()
    return float(torch.special.entr(shares).sum() / torch.tensor(len(x)).double().log())


def statistics(values: Float[Tensor, " k"], lowest_is_worst: bool = True) -> dict[str, float]:
    """Return every statistic of a per-client vector by name.

    Args:
        values: One value per client, at least 0, or NaN.
        lowest_is_worst: Whether low values are bad, as for accuracies; for leakage, high ones are.
    """
    sign = 1.0 if lowest_is_worst else -1.0
    signed = sign * select_defined(values).double()
    return {
        "mean": mean(values),
        "spread": spread(values),
        "variance": variance(values),
        "worst_10_percent": sign * worst_share(signed),
        "best_10_percent": sign * best_share(signed),
        "cvar_10_percent": sign * cvar(signed),
        "worst_client": sign * float(signed.min()) if len(signed) else NAN,
        "parity_gap": parity_gap(values),
        "jain": jain(values),
        "gini": gini(values),
        "entropy": entropy(values),
    }


@final
@dataclass(frozen=True)
class Fairness(Metric):
    """Evenness of the global model's accuracy over clients, and gaps between groups of clients.

    Over all clients that hold records and whose accuracy is defined; if some of them attack, also
    over the honest ones (group `honest`), as in papers on robust rules.

    Source: Li et al. (2020), q-FFL, https://arxiv.org/abs/1905.10497, the fairness report of
    FederatedScope, and, over honest clients, Li et al. (2021), Ditto,
    https://arxiv.org/abs/2012.04221. An even federation has spread 0, Jain 1, Gini 0 and
    entropy 1, and so has a model that guesses.
    """

    def rows(self, record: RoundRecord) -> Iterator[Row]:
        """Yield the statistics of the clients' accuracies, and the gaps between groups."""
        holders = record.class_counts.sum(1).nonzero().squeeze(1)
        accuracies = client_accuracies(record)[holders]
        all_groups = client_groups(record)
        groups = [all_groups[client] for client in holders.tolist()]
        yield from self._statistics(record, accuracies, "all")
        honest = torch.tensor([group != ATTACKER for group in groups], dtype=torch.bool)
        if bool(honest.any()) and not bool(honest.all()):
            yield from self._statistics(record, accuracies[honest], "honest")
        yield from mean_rows(record.round, "fairness_mean", accuracies, groups)
        yield from gap_rows(record.round, "fairness", accuracies, groups)
        yield from domain_rows(record)

    def _statistics(
        self, record: RoundRecord, accuracies: Float[Tensor, " k"], group: str
    ) -> Iterator[Row]:
        rows = [
            Row(record.round, f"fairness_{name}", value, group=group)
            for name, value in statistics(accuracies).items()
        ]
        yield from map(mark_undefined, note_left_out(rows, accuracies.isnan(), "clients"))
