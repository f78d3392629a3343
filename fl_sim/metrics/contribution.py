"""Contributions of clients to a round: leave-one-out, Shapley values and gradient cosines.

`utility` is the worth of the global model after a step, such as its accuracy, given the step and
the summed weight of the clients that it is of. The step of a coalition is the weighted mean of its
updates, whatever rule the run uses; that of the empty coalition is zero. Values that depend on a
coalition whose worth is NaN, such as one whose model diverged, are NaN.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Row
from fl_sim.contracts.validity import mark_undefined
from fl_sim.core.sums import chunks, weighted_sum
from fl_sim.metrics._shared.defined import note_left_out, select_pairs

Utility = Callable[[Float[Tensor, " p"], float], float]
Worth = Callable[[frozenset[int]], float]
EXACT_UP_TO = 8  # clients: 256 evaluations, about as many as sampling needs


def coalition_step(
    updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"], members: frozenset[int]
) -> Float[Tensor, " p"]:
    """Return the weighted mean of the members' updates, accumulated in float64."""
    if not members:
        return torch.zeros(updates.shape[1], dtype=torch.float64)
    inside = torch.tensor([i in members for i in range(len(updates))])
    shares = weights.double() * inside
    return weighted_sum(shares / shares.sum(), updates)


def _evaluate(
    updates: Float[Tensor, "n p"],
    weights: Float[Tensor, " n"],
    utility: Utility,
    members: frozenset[int],
) -> float:
    """Return the worth of the members' step."""
    weight = float(weights.double()[sorted(members)].sum())
    return utility(coalition_step(updates, weights, members), weight)


def leave_one_out(
    updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"], utility: Utility
) -> Float[Tensor, " n"]:
    """Return the worth of the step of all clients minus that of all but each client.

    Takes n + 1 evaluations. 0 for a client without effect, such as one whose data another client
    holds as well.

    Source: Cook (1977), https://doi.org/10.2307/1268249, of clients instead of observations.
    """
    all_clients = frozenset(range(len(updates)))
    total = _evaluate(updates, weights, utility, all_clients)
    rest = [_evaluate(updates, weights, utility, all_clients - {i}) for i in all_clients]
    return total - torch.tensor(rest, dtype=torch.float64)


def gtg_shapley(
    updates: Float[Tensor, "n p"],
    weights: Float[Tensor, " n"],
    utility: Utility,
    rng: torch.Generator,
    truncation: float = 0.001,
    max_cycles: int = 20,
    exact_up_to: int = EXACT_UP_TO,
) -> Float[Tensor, " n"]:
    """Return the clients' Shapley values in a round: exact for few clients, else estimates.

    Up to `exact_up_to` clients, all 2^n coalitions are evaluated: see `exact_shapley`. With more,
    guided truncated sampling estimates the values. If the whole step is worth less than
    `truncation`, every value is 0. Otherwise clients join in random orders, n orders per cycle,
    of which each client leads one, and a client is credited with the growth of the worth when it
    joins. An order is cut off once the worth is within `truncation` of that of all clients: later
    clients get 0. Cycles are repeated until the estimates converge (`_has_converged`), at most
    `max_cycles` times. Each coalition is evaluated once.

    The values add up to the worth of the whole step, estimates to within `truncation`; a client
    without effect has 0.

    Source: Shapley (1953), equation 12; Liu et al. (2022), GTG-Shapley, algorithm 1,
    https://arxiv.org/abs/2109.02053.

    Args:
        updates: Updates, one row per client.
        weights: Positive weights, one per client.
        utility: Worth of the global model after a step of clients of some weight.
        rng: Generator of the orders; not used for exact values.
        truncation: Difference of worth that counts as none, in the unit of `utility`.
        max_cycles: Largest number of cycles, of n orders each.
        exact_up_to: Largest number of clients with exact values; 0 always samples.
    """
    count = len(updates)

    @cache
    def worth(members: frozenset[int]) -> float:
        return _evaluate(updates, weights, utility, members)

    if count <= exact_up_to:
        return exact_shapley(count, worth)
    return _sampled_shapley(count, worth, rng, truncation, max_cycles)


def exact_shapley(count: int, worth: Worth) -> Float[Tensor, " n"]:
    """Return the Shapley values of `count` players, by 2^count evaluations.

    A value is the mean, over all orders, of the growth of the worth when the player joins.

    Source: Shapley (1953), A value for n-person games, equation 12.

    >>> exact_shapley(2, lambda members: float(len(members) == 2)).tolist()
    [0.5, 0.5]
    """
    all_clients = range(count)
    worths = {
        members: worth(members)
        for size in range(count + 1)
        for members in map(frozenset, combinations(all_clients, size))
    }
    gains: list[list[float]] = [[] for _ in all_clients]
    for members, value in worths.items():
        for joining in all_clients:
            if joining not in members:
                chance = 1 / (count * math.comb(count - 1, len(members)))
                gains[joining].append(chance * (worths[members | {joining}] - value))
    return torch.tensor([math.fsum(parts) for parts in gains], dtype=torch.float64)


def _sampled_shapley(
    count: int, worth: Worth, rng: torch.Generator, truncation: float, max_cycles: int
) -> Float[Tensor, " n"]:
    """Return estimates by guided truncated sampling: see `gtg_shapley`."""
    full, empty = worth(frozenset(range(count))), worth(frozenset())
    if math.isnan(full - empty):
        return torch.full((count,), torch.nan, dtype=torch.float64)
    total = torch.zeros(count, dtype=torch.float64)
    if abs(full - empty) <= truncation:
        return total
    history: list[Tensor] = []
    for cycle in range(max_cycles):
        for first in range(count):
            order = [i for i in torch.randperm(count, generator=rng).tolist() if i != first]
            total += _marginal_contributions([first, *order], worth, full, empty, truncation)
        history.append(total / (count * (cycle + 1)))
        if _has_converged(history):
            break
    return history[-1]


def _marginal_contributions(
    order: list[int], worth: Worth, full: float, empty: float, truncation: float
) -> Float[Tensor, " n"]:
    """Return the growth of the worth as each client joins; 0 after the order is cut off."""
    gains = torch.zeros(len(order), dtype=torch.float64)
    joined: frozenset[int] = frozenset()
    before = empty
    for client in order:
        if abs(full - before) <= truncation:
            break
        joined |= {client}
        after = worth(joined)
        gains[client] = after - before
        before = after
    return gains


def _has_converged(history: list[Tensor], cycles: int = 3, change: float = 0.05) -> bool:
    """Return whether the estimates changed by less than `change`, relatively, in `cycles`."""
    if len(history) <= cycles:
        return False
    last = history[-1]
    scale = last.abs().clamp(min=1e-12)
    changes = [((old - last).abs() / scale).mean() for old in history[-cycles - 1 : -1]]
    return bool(torch.stack(changes).max() < change)


def gradient_cosine(
    updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return the cosine between each update and the weighted mean of all, from -1 to 1.

    Needs no evaluation. A zero update has 0, one that is not finite NaN. By chance, unrelated
    updates of n clients have about 1 / sqrt(n), since each is part of the mean.

    Source: Xu et al. (2021), CGSV, https://openreview.net/forum?id=yRfsADObu18,
    of one round.
    """
    mean = weighted_sum(weights.double() / weights.double().sum(), updates)
    products = torch.zeros(len(updates), dtype=torch.float64)
    squares = torch.zeros(len(updates), dtype=torch.float64)
    for columns in chunks(updates.shape[1]):
        part = updates[:, columns].double()
        products += part @ mean[columns]
        squares += part.square().sum(1)
    lengths = squares.sqrt() * mean.norm()
    return torch.where(lengths == 0, 0.0, products / lengths).clamp(-1, 1)


def collaborative_fairness(
    contributions: Float[Tensor, " k"], rewards: Float[Tensor, " k"]
) -> float:
    """Return Pearson's correlation of contributions and rewards, from -1 to 1.

    Over the clients of which both are defined; unrelated values give about 0. NaN if all
    contributions or all rewards are equal, and for fewer than two clients. Papers print it times
    100. It does not show clients that lose by taking part: see `fl_sim.metrics.benefit`.

    Source: Lyu et al. (2020), CFFL, definition 1, https://arxiv.org/abs/2008.12161.
    """
    contributions, rewards = select_pairs(contributions.double(), rewards.double())
    x, y = contributions - contributions.mean(), rewards - rewards.mean()
    scale = x.norm() * y.norm()
    return float((x @ y / scale).clamp(-1, 1)) if _varies(x) and _varies(y) else float("nan")


def contribution_rows(
    round_num: int,
    clients: Sequence[int],
    rewards: Float[Tensor, " n"],
    contributions: Mapping[str, Float[Tensor, " n"]],
) -> Iterator[Row]:
    """Yield each client's contribution by each measure, and its correlation with the rewards."""
    for name, values in contributions.items():
        for client, value in zip(clients, values.tolist(), strict=True):
            yield mark_undefined(Row(round_num, f"contribution_{name}", value, client))
        row = correlation_row(round_num, name, values, rewards)
        yield from note_left_out([row], values.isnan() | rewards.isnan(), "clients")


def correlation_row(
    round_num: int, name: str, contributions: Float[Tensor, " k"], rewards: Float[Tensor, " k"]
) -> Row:
    """Return the correlation of contributions and rewards, invalid if it is not defined."""
    value = collaborative_fairness(contributions, rewards)
    valid = value == value
    few = len(select_pairs(contributions, rewards)[0]) < 2
    note = "fewer than two clients to compare" if few else "all give alike, or all get alike"
    note = "" if valid else note
    return Row(round_num, f"fairness_collaboration_{name}", value, valid=valid, note=note)


def _varies(centred: Float[Tensor, " k"]) -> bool:
    """Return whether the values differ by more than rounding."""
    return bool(centred.abs().max() > 1e-12) if len(centred) > 1 else False
