"""Comparison of groups of clients: clean, mixed, protected and attackers.

Clients whose value is NaN (not defined) are left out of their group.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Row
from fl_sim.contracts.validity import mark_undefined
from fl_sim.metrics._shared.defined import mean

CLEAN, MIXED, PROTECTED, ATTACKER = "clean", "mixed", "protected", "attacker"
GROUPS = (CLEAN, MIXED, PROTECTED, ATTACKER)


def assign_group(share: float, attacks: bool) -> str:
    """Return a client's group by the protected share of its records; attackers come first."""
    if attacks:
        return ATTACKER
    return PROTECTED if share > 0.75 else CLEAN if share < 0.25 else MIXED


def group_mean(values: Float[Tensor, " k"], groups: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the mean over the clients of the wanted groups; NaN if none has a value."""
    return mean(values[torch.tensor([group in wanted for group in groups], dtype=torch.bool)])


def group_gap(
    values: Float[Tensor, " k"], groups: Sequence[str], of: Sequence[str], to: Sequence[str]
) -> float:
    """Return the mean of the groups `of` minus that of the groups `to`; 0 is even.

    NaN if one of them is empty.

    >>> group_gap(torch.tensor([0.75, 0.5]), ["clean", "protected"], ["protected"], ["clean"])
    -0.25
    """
    return group_mean(values, groups, of) - group_mean(values, groups, to)


def mean_rows(
    round_num: int, metric: str, values: Float[Tensor, " k"], groups: Sequence[str]
) -> Iterator[Row]:
    """Yield one row per group that has clients, with its mean."""
    for group in GROUPS:
        if group in groups:
            yield mark_undefined(
                Row(round_num, metric, group_mean(values, groups, [group]), group=group)
            )


def gap_rows(
    round_num: int, prefix: str, values: Float[Tensor, " k"], groups: Sequence[str]
) -> Iterator[Row]:
    """Yield protected minus clean clients and, if any client attacks, attackers minus others."""
    gap = group_gap(values, groups, [PROTECTED], [CLEAN])
    valid = PROTECTED in groups and CLEAN in groups
    note = "" if valid else "no clients to compare: all protect alike"
    yield mark_undefined(Row(round_num, f"{prefix}_protected_gap", gap, valid=valid, note=note))
    if ATTACKER in groups:
        gap = group_gap(values, groups, [ATTACKER], [CLEAN, MIXED, PROTECTED])
        honest = len(set(groups)) > 1
        note = "" if honest else "no clients to compare: all attack"
        yield mark_undefined(Row(round_num, f"{prefix}_attacker_gap", gap, valid=honest, note=note))
