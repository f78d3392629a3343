"""Fairness of membership leakage: statistics of the attack's AUC over clients."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64
from scipy.special import ndtri
from torch import Tensor

from fl_sim.contracts import Metric, RoundRecord, Row
from fl_sim.metrics._shared.defined import select_pairs
from fl_sim.metrics._shared.groups import gap_rows, mean_rows
from fl_sim.metrics._shared.intervals import auc_with_interval
from fl_sim.metrics._shared.pools import MIN_RECORDS
from fl_sim.metrics.accuracy import client_groups
from fl_sim.metrics.fairness import statistics
from fl_sim.metrics.leakage import margin_score

HALF_WIDTH = float(ndtri(0.975))  # of a 95 % interval, in standard errors


def client_aucs(
    record: RoundRecord,
) -> tuple[Int64[Tensor, " a"], Float[Tensor, " a"], Float[Tensor, " a"]]:
    """Return the ids of auditable clients, the AUC of the margin attack on each, and its error.

    Clients with fewer than two members or two non-members in the pool are left out. The standard
    error is DeLong's. Guessing gives an AUC of 0.5.
    """
    score = margin_score(record.pool_logits, record.pool_labels)
    order = record.pool_clients.argsort(stable=True)
    sizes = record.pool_clients.bincount(minlength=record.num_clients).tolist()
    clients, areas, errors = [], [], []
    for client, rows in enumerate(order.split(sizes)):
        inside = record.members[rows]
        if min(int(inside.sum()), int((~inside).sum())) < MIN_RECORDS:
            continue
        area, low, high = auc_with_interval(score[rows[inside]], score[rows[~inside]])
        clients.append(client)
        areas.append(area)
        errors.append(max(area - low, high - area) / HALF_WIDTH)  # bounds are cut at 0 and 1
    double = torch.float64
    client_ids = torch.tensor(clients, dtype=torch.int64)
    return client_ids, torch.tensor(areas, dtype=double), torch.tensor(errors, dtype=double)


def excess_spread(values: Float[Tensor, " k"], errors: Float[Tensor, " k"]) -> float:
    """Return the standard deviation of the true values, without that of measurement errors.

    Each value is measured on a handful of records, so that values differ even if all clients
    leak alike. The variance between clients is the sample variance minus the mean squared error,
    at least 0.

    Source: Hedges and Olkin (1985), Statistical Methods for Meta-Analysis, chapter 9: the
    method of moments. Clients that leak alike give about 0, one client 0, and none NaN.
    """
    values, errors = select_pairs(values, errors)
    if len(values) < 2:
        return 0.0 if len(values) else float("nan")
    between = values.double().var(correction=1) - errors.double().square().mean()
    return float(between.clamp(min=0).sqrt())


@final
@dataclass(frozen=True)
class LeakageFairness(Metric):
    """Evenness of membership leakage: statistics of the margin attack's AUC over clients.

    The worst clients are those with the highest AUC. Compare `excess_spread` with `spread`: the
    rest of the spread is due to small pools.

    Source: this project; the attack is that of Carlini et al. (2022),
    https://arxiv.org/abs/2112.03570. Guessing gives a mean of 0.5 and an excess of 0.
    """

    def rows(self, record: RoundRecord) -> Iterator[Row]:
        """Yield the statistics over clients, and the gaps between groups."""
        clients, areas, errors = client_aucs(record)
        if len(clients) == 0:
            note = f"no client has {MIN_RECORDS} members and {MIN_RECORDS} outsiders in the pool"
            yield Row(record.round, "fairness_leakage_mean", float("nan"), valid=False, note=note)
            return
        numbers = statistics(areas, lowest_is_worst=False)
        numbers["excess_spread"] = excess_spread(areas, errors)
        out = record.num_clients - len(clients)
        note = f"{out} of {record.num_clients} clients left out: too small a pool" if out else ""
        for name, value in numbers.items():
            yield Row(record.round, f"fairness_leakage_{name}", value, note=note)
        all_groups = client_groups(record)
        groups = [all_groups[client] for client in clients.tolist()]
        yield from mean_rows(record.round, "fairness_leakage_mean", areas, groups)
        yield from gap_rows(record.round, "fairness_leakage", areas, groups)
