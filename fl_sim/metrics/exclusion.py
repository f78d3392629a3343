"""Shares of updates in the step, and precision and recall of the exclusion of attackers."""

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import final

from fl_sim.contracts import Metric, RoundRecord, Row
from fl_sim.metrics.accuracy import client_groups

SILENT = "the rule does not say what became of each update"


def precision(left_out: Set[int], attackers: Set[int]) -> float:
    """Return the share of attackers among the excluded clients; NaN if there are none.

    Chance level: the share of attackers among all clients.

    >>> precision({1, 2}, {2, 3})
    0.5
    """
    return len(left_out & attackers) / len(left_out) if left_out else float("nan")


def recall(left_out: Set[int], attackers: Set[int]) -> float:
    """Return the share of the attackers that were excluded; NaN if there are none.

    Chance level: the share of all clients that the rule excludes.

    >>> recall({1}, {1, 3})
    0.5
    """
    return len(left_out & attackers) / len(attackers) if attackers else float("nan")


@final
@dataclass(frozen=True)
class Exclusion(Metric):
    """Share and scale of each update, and precision and recall of the exclusion of attackers.

    An update is excluded if its share of the step is zero; one that is merely clipped is not.
    Shares are the coefficients of a weighted mean or, for a coordinate-wise rule, the shares of
    coordinates in which an update is used. A rule that excludes at random has a precision of the
    share of attackers, and a recall of the share of excluded clients.

    Source: the usual definitions; precision and recall of removal as in FLANDERS (Gabrielli et
    al. 2023), https://arxiv.org/abs/2303.16668.
    """

    def rows(self, record: RoundRecord) -> Iterator[Row]:
        """Yield rows per update, precision and recall, and share and exclusion per group."""
        decision = record.decision
        if decision is None or decision.shares is None:
            for name in ("exclusion_precision", "exclusion_recall"):
                yield Row(record.round, name, float("nan"), valid=False, note=SILENT)
            return
        clients = [update.client for update in record.updates]
        groups = client_groups(record)
        columns = {"rule_share": decision.shares}
        if decision.scales is not None:
            columns["rule_scale"] = decision.scales
        for name, values in columns.items():
            for client, value in zip(clients, values.tolist(), strict=True):
                yield Row(record.round, name, value, client, groups[client])
        shares = decision.shares.tolist()
        yield from _share_rows(record.round, shares, clients, groups)
        left_out = {c for c, share in zip(clients, shares, strict=True) if share == 0}
        yield from _precision_recall_rows(record.round, left_out, record.attackers & set(clients))
        yield from _rate_rows(record.round, left_out, clients, groups)


def _precision_recall_rows(round_: int, left_out: Set[int], attackers: Set[int]) -> Iterator[Row]:
    note = "" if left_out else "nobody was left out"
    value = precision(left_out, attackers)
    yield Row(round_, "exclusion_precision", value, valid=not note, note=note)
    note = "" if attackers else "nobody attacked"
    value = recall(left_out, attackers)
    yield Row(round_, "exclusion_recall", value, valid=not note, note=note)


def _share_rows(
    round_: int, shares: list[float], clients: list[int], groups: list[str]
) -> Iterator[Row]:
    """Yield the mean share of each group relative to that of all updates; 1 is even."""
    mean = sum(shares) / len(shares) if shares else 0.0
    members: dict[str, list[float]] = {}
    for client, share in zip(clients, shares, strict=True):
        members.setdefault(groups[client], []).append(share)
    for group, own_shares in members.items():
        value = sum(own_shares) / len(own_shares) / mean if mean else float("nan")
        note = "" if mean else "no update counted"
        yield Row(round_, "group_share", value, group=group, valid=not note, note=note)


def _rate_rows(
    round_: int, left_out: Set[int], clients: list[int], groups: list[str]
) -> Iterator[Row]:
    """Yield the excluded share of each group, and of all clients."""
    members: dict[str, list[int]] = {"all": clients}
    for client in clients:
        members.setdefault(groups[client], []).append(client)
    for group, ids in members.items():
        rate = len(left_out & set(ids)) / len(ids) if ids else float("nan")
        note = "" if ids else "no updates"
        yield Row(round_, "exclusion_rate", rate, group=group, valid=not note, note=note)
