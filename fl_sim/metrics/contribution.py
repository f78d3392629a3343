"""What each client adds to a round: pure functions of its update, and of a model's worth.

`utility` says what the global model is worth once a step is added to it, such as its accuracy.
A coalition's step is the weighted mean of its updates, whatever rule the run uses; nobody's is
zero. A coalition whose worth is NaN, such as a model that diverged, makes NaN of all that is
computed from it.
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

Utility = Callable[[Float[Tensor, " p"]], float]
Worth = Callable[[frozenset[int]], float]
EXACT_UP_TO = 8  # clients: 256 evaluations, where sampling takes about as many


def coalition_step(
    updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"], members: frozenset[int]
) -> Float[Tensor, " p"]:
    """Return the weighted mean of the members' updates, accumulated in float64."""
    if not members:
        return _nothing(updates)
    inside = torch.tensor([i in members for i in range(len(updates))])
    shares = weights.double() * inside
    return weighted_sum(shares / shares.sum(), updates)


def leave_one_out(
    updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"], utility: Utility
) -> Float[Tensor, " n"]:
    """Return by how much the step of all is worth more than that of all but each client.

    Takes n + 1 evaluations. A client whose data somebody else also has adds nothing here.

    Source: Cook (1977), https://doi.org/10.2307/1268249, of clients instead of observations.
    """
    all_clients = frozenset(range(len(updates)))
    whole = utility(coalition_step(updates, weights, all_clients))
    rest = [utility(coalition_step(updates, weights, all_clients - {i})) for i in all_clients]
    return whole - torch.tensor(rest, dtype=torch.float64)


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

    Up to `exact_up_to` clients all 2^n coalitions are evaluated, and nothing is cut off: see
    `exact_shapley`. With more, guided truncated sampling estimates them. A round whose whole step
    is worth less than `truncation` gives everybody 0. Otherwise clients join in random orders, n
    orders a cycle, in which each client comes first once; a client gets what the worth grows by
    when it joins. An order ends once the worth is within `truncation` of that of all: who joins
    later gets nothing. Cycles go on until the estimates settle (`_has_converged`), at most
    `max_cycles` of them. Coalitions are evaluated once.

    The values add up to what the whole step is worth; estimates, to within `truncation`.

    Source: Shapley (1953), equation 12; Liu et al. (2022), GTG-Shapley, algorithm 1,
    https://arxiv.org/abs/2109.02053.

    Args:
        updates: one row a client.
        weights: positive, one a client.
        utility: see the module.
        rng: draws the orders; exact values draw nothing.
        truncation: difference of worth that is taken for none, in the unit of `utility`.
        max_cycles: of n orders each.
        exact_up_to: number of clients up to which values are exact; 0 always samples.
    """
    count = len(updates)

    @cache
    def worth(members: frozenset[int]) -> float:
        return utility(coalition_step(updates, weights, members))

    if count <= exact_up_to:
        return exact_shapley(count, worth)
    return _sampled_shapley(count, worth, rng, truncation, max_cycles)


def exact_shapley(count: int, worth: Worth) -> Float[Tensor, " n"]:
    """Return the Shapley values of `count` players, in 2^count evaluations.

    The mean over all orders of what the worth grows by when a player joins.

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
    return torch.tensor([math.fsum(own) for own in gains], dtype=torch.float64)


def _sampled_shapley(
    count: int, worth: Worth, rng: torch.Generator, truncation: float, max_cycles: int
) -> Float[Tensor, " n"]:
    """Return estimates by guided truncated sampling: see `gtg_shapley`."""
    whole, nothing = worth(frozenset(range(count))), worth(frozenset())
    if math.isnan(whole - nothing):
        return torch.full((count,), torch.nan, dtype=torch.float64)
    if abs(whole - nothing) <= truncation:
        return torch.zeros(count, dtype=torch.float64)
    total = torch.zeros(count, dtype=torch.float64)
    history: list[Tensor] = []
    for cycle in range(max_cycles):
        for first in range(count):
            order = [i for i in torch.randperm(count, generator=rng).tolist() if i != first]
            total += _marginal_contributions([first, *order], worth, whole, nothing, truncation)
        history.append(total / (count * (cycle + 1)))
        if _has_converged(history):
            break
    return history[-1]


def _marginal_contributions(
    order: list[int],
    worth: Worth,
    whole: float,
    nothing: float,
    truncation: float,
) -> Float[Tensor, " n"]:
    """Return what the worth grows by as each client joins; 0 once hardly anything is missing."""
    gains = torch.zeros(len(order), dtype=torch.float64)
    joined: frozenset[int] = frozenset()
    before = nothing
    for client in order:
        if abs(whole - before) <= truncation:
            break
        joined |= {client}
        after = worth(joined)
        gains[client] = after - before
        before = after
    return gains


def _has_converged(history: list[Tensor], cycles: int = 3, change: float = 0.05) -> bool:
    """Return whether the estimates moved by less than `change`, relatively, in the last cycles."""
    if len(history) <= cycles:
        return False
    last = history[-1]
    scale = last.abs().clamp(min=1e-12)
    moves = [((old - last).abs() / scale).mean() for old in history[-cycles - 1 : -1]]
    return bool(torch.stack(moves).max() < change)


def gradient_cosine(
    updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return the cosine between each update and the weighted mean of all, from -1 to 1.

    Needs no evaluation. A zero update gives 0, one that is not finite NaN; unrelated
    updates of n clients about 1 / sqrt(n), since each is part of the mean.

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
    """Return Pearson's correlation of what clients give and what they get, from -1 to 1.

    1: whoever gives more gets more. Over the clients of which both numbers are defined. NaN where
    all give alike or all get alike, and for fewer than two clients. Papers print it times 100.
    Blind to clients that lose by taking part: see `fl_sim.metrics.benefit`. Unrelated numbers give
    about 0.

    Source: Lyu et al. (2020), CFFL, definition 1, https://arxiv.org/abs/2008.12161.
    """
    given, got = select_pairs(contributions.double(), rewards.double())
    x, y = given - given.mean(), got - got.mean()
    scale = x.norm() * y.norm()
    return float((x @ y / scale).clamp(-1, 1)) if _varies(x) and _varies(y) else float("nan")


def contribution_rows(
    round_num: int,
    clients: Sequence[int],
    rewards: Float[Tensor, " n"],
    contributions: Mapping[str, Float[Tensor, " n"]],
) -> Iterator[Row]:
    """Yield what each client gives, by each measure, and how that goes with what it gets."""
    for name, values in contributions.items():
        for client, value in zip(clients, values.tolist(), strict=True):
            yield mark_undefined(Row(round_num, f"contribution_{name}", value, client))
        row = correlation_row(round_num, name, values, rewards)
        yield from note_left_out([row], values.isnan() | rewards.isnan(), "clients")


def correlation_row(
    round_num: int, name: str, given: Float[Tensor, " k"], got: Float[Tensor, " k"]
) -> Row:
    """Return the correlation of what clients give and get, flagged where there is none."""
    value = collaborative_fairness(given, got)
    there = value == value
    few = len(select_pairs(given, got)[0]) < 2
    note = "fewer than two clients to compare" if few else "all give alike, or all get alike"
    note = "" if there else note
    return Row(round_num, f"fairness_collaboration_{name}", value, valid=there, note=note)


def _varies(centred: Float[Tensor, " k"]) -> bool:
    """Return whether values differ by more than rounding."""
    return bool(centred.abs().max() > 1e-12) if len(centred) > 1 else False


def _nothing(updates: Float[Tensor, "n p"]) -> Float[Tensor, " p"]:
    return torch.zeros(updates.shape[1], dtype=torch.float64)
