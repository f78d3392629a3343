"""What the rule made of each update, and whether it left out those that attacked."""

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import final

from fl_sim.contracts import Metric, RoundRecord, Row
from fl_sim.metrics.accuracy import client_groups

SILENT = "the rule does not say what became of each update"


def precision(left_out: Set[int], attackers: Set[int]) -> float:
    """Return the share of attackers among those that were left out; NaN if nobody was.

    A rule that leaves out at random reads the share of attackers among all.

    >>> precision({1, 2}, {2, 3})
    0.5
    """
    return len(left_out & attackers) / len(left_out) if left_out else float("nan")


def recall(left_out: Set[int], attackers: Set[int]) -> float:
    """Return the share of the attackers that were left out; NaN if nobody attacked.

    A rule that leaves out at random reads the share of all that it leaves out.

    >>> recall({1}, {1, 3})
    0.5
    """
    return len(left_out & attackers) / len(attackers) if attackers else float("nan")


@final
@dataclass(frozen=True)
class Exclusion(Metric):
    """Share and shortening of each update, and precision and recall of leaving attackers out.

    An update is left out where its share of the step is zero; one that is merely shortened is
    not. Shares are coefficients of a weighted mean, or, of a coordinate-wise rule, how often an
    update is used.

    Source: the usual definitions; precision and recall of removal as in FLANDERS (Gabrielli et
    al. 2023), https://arxiv.org/abs/2303.16668.
    """

    def rows(self, record: RoundRecord) -> Iterator[Row]:
        """Yield rows for each update, the two numbers, and each group's weight and exclusion."""
        decision = record.decision
        if decision is None or decision.shares is None:
            for name in ("exclusion_precision", "exclusion_recall"):
                yield Row(record.round, name, float("nan"), valid=False, note=SILENT)
            return
        clients = [update.client for update in record.updates]
        groups = _groups(record)
        told = {"rule_share": decision.shares}
        if decision.scales is not None:
            told["rule_scale"] = decision.scales
        for name, numbers in told.items():
            for client, number in zip(clients, numbers.tolist(), strict=True):
                yield Row(record.round, name, number, client, groups[client])
        shares = decision.shares.tolist()
        yield from _share_rows(record.round, shares, clients, groups)
        left_out = {c for c, share in zip(clients, shares, strict=True) if share == 0}
        yield from _precision_recall_rows(record.round, left_out, record.attackers & set(clients))
        yield from _rate_rows(record.round, left_out, clients, groups)


def _groups(record: RoundRecord) -> list[str]:
    """Return each client's group, `attacker` where it misbehaves in this round."""
    groups = client_groups(record)
    return ["attacker" if c in record.attackers else group for c, group in enumerate(groups)]


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
    """Yield how a group's mean share compares with that of all: 1 where it counts as others do."""
    mean = sum(shares) / len(shares) if shares else 0.0
    members: dict[str, list[float]] = {}
    for client, share in zip(clients, shares, strict=True):
        members.setdefault(groups[client], []).append(share)
    for group, own in members.items():
        value = sum(own) / len(own) / mean if mean else float("nan")
        note = "" if mean else "no update counted"
        yield Row(round_, "group_share", value, group=group, valid=not note, note=note)


def _rate_rows(
    round_: int, left_out: Set[int], clients: list[int], groups: list[str]
) -> Iterator[Row]:
    """Yield the share of each group, and of all, that was left out."""
    members: dict[str, list[int]] = {"all": clients}
    for client in clients:
        members.setdefault(groups[client], []).append(client)
    for group, own in members.items():
        rate = len(left_out & set(own)) / len(own) if own else float("nan")
        note = "" if own else "no updates"
        yield Row(round_, "exclusion_rate", rate, group=group, valid=not note, note=note)
