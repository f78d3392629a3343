"""What each client adds to a round: pure functions of its update, and of a model's worth.

`utility` says what the global model is worth once a step is added to it, such as its accuracy.
A coalition's step is the weighted mean of its updates, whatever rule the run uses; nobody's is
zero.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Row
from fl_sim.sums import chunks, weighted_sum

Utility = Callable[[Float[Tensor, " p"]], float]


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
    everybody = frozenset(range(len(updates)))
    whole = utility(coalition_step(updates, weights, everybody))
    rest = [utility(coalition_step(updates, weights, everybody - {i})) for i in everybody]
    return whole - torch.tensor(rest, dtype=torch.float64)


def gtg_shapley(
    updates: Float[Tensor, "n p"],
    weights: Float[Tensor, " n"],
    utility: Utility,
    rng: torch.Generator,
    truncation: float = 0.001,
    max_cycles: int = 20,
) -> Float[Tensor, " n"]:
    """Return estimates of the clients' Shapley values in a round, by guided truncated sampling.

    A round whose whole step is worth less than `truncation` gives everybody 0. Otherwise clients
    join in random orders, n orders a cycle, in which each client comes first once; a client
    gets what the worth grows by when it joins. An order ends once the worth is within
    `truncation` of that of all: who joins later gets nothing. Cycles go on until the estimates
    settle (`_settled`), at most `max_cycles` of them. Coalitions are evaluated once.

    The values add up to what the whole step is worth, to within `truncation`.

    Source: Liu et al. (2022), GTG-Shapley, algorithm 1, https://arxiv.org/abs/2109.02053.

    Args:
        updates: one row a client.
        weights: positive, one a client.
        utility: see the module.
        rng: draws the orders.
        truncation: difference of worth that is taken for none, in the unit of `utility`.
        max_cycles: of n orders each.
    """
    count = len(updates)

    @cache
    def worth(members: frozenset[int]) -> float:
        return utility(coalition_step(updates, weights, members))

    whole, nothing = worth(frozenset(range(count))), worth(frozenset())
    if abs(whole - nothing) <= truncation:
        return torch.zeros(count, dtype=torch.float64)
    total = torch.zeros(count, dtype=torch.float64)
    history: list[Tensor] = []
    for cycle in range(max_cycles):
        for first in range(count):
            order = [i for i in torch.randperm(count, generator=rng).tolist() if i != first]
            total += _marginal_worths([first, *order], worth, whole, nothing, truncation)
        history.append(total / (count * (cycle + 1)))
        if _settled(history):
            break
    return history[-1]


def _marginal_worths(
    order: list[int],
    worth: Callable[[frozenset[int]], float],
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


def _settled(history: list[Tensor], cycles: int = 3, change: float = 0.05) -> bool:
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

    Needs no evaluation. A zero update gives 0; unrelated updates of n clients about 1 / sqrt(n),
    since each is part of the mean.

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
    return torch.where(lengths > 0, products / lengths, 0.0).clamp(-1, 1)


def collaborative_fairness(
    contributions: Float[Tensor, " k"], rewards: Float[Tensor, " k"]
) -> float:
    """Return Pearson's correlation of what clients give and what they get, from -1 to 1.

    1: whoever gives more gets more. NaN where all give alike or all get alike, and for fewer
    than two clients. Papers print it times 100. Blind to clients that lose by taking part: see
    `fl_sim.metrics.benefit`. Unrelated numbers give about 0.

    Source: Lyu et al. (2020), CFFL, definition 1, https://arxiv.org/abs/2008.12161.
    """
    x = contributions.double() - contributions.double().mean()
    y = rewards.double() - rewards.double().mean()
    scale = x.norm() * y.norm()
    return float((x @ y / scale).clamp(-1, 1)) if _varies(x) and _varies(y) else float("nan")


def contribution_rows(
    number: int,
    clients: Sequence[int],
    rewards: Float[Tensor, " n"],
    contributions: Mapping[str, Float[Tensor, " n"]],
) -> Iterator[Row]:
    """Yield what each client gives, by each measure, and how that goes with what it gets."""
    for name, values in contributions.items():
        for client, value in zip(clients, values.tolist(), strict=True):
            yield Row(number, f"contribution_{name}", value, client)
        yield correlation_row(number, name, values, rewards)


def correlation_row(
    number: int, name: str, given: Float[Tensor, " k"], got: Float[Tensor, " k"]
) -> Row:
    """Return the correlation of what clients give and get, flagged where there is none."""
    value = collaborative_fairness(given, got)
    there = value == value
    note = "" if there else "all give alike, or all get alike"
    return Row(number, f"fairness_collaboration_{name}", value, valid=there, note=note)


def _varies(centred: Float[Tensor, " k"]) -> bool:
    """Return whether values differ by more than rounding."""
    return bool(centred.abs().max() > 1e-12) if len(centred) > 1 else False


def _nothing(updates: Float[Tensor, "n p"]) -> Float[Tensor, " p"]:
    return torch.zeros(updates.shape[1], dtype=torch.float64)
