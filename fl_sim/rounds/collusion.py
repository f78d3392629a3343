"""Attackers that know what the others send: their updates are forged on the server's side."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fl_sim.contracts import Client, ColludingClient, Collusion, RoundContext
from fl_sim.core.seeding import generator
from fl_sim.rounds.accumulator import RoundUpdates
from fl_sim.rounds.server import Server
from fl_sim.schedule import Schedule
from fl_sim.training.update_checks import (
    NOT_FINITE,
    InvalidUpdateError,
    compute_norm,
    describe_error,
)

# What clients, given by number, would send if they behaved like another client.
Retrainer = Callable[[Client, list[int]], Float[Tensor, "m p"]]


def find_colluders(schedule: Schedule, round_num: int) -> dict[int, ColludingClient]:
    """Return the clients that collude in a round, and how."""
    attackers = sorted(schedule.attackers(round_num))
    found = {client: schedule.behaviour(client, round_num) for client in attackers}
    return {c: own for c, own in found.items() if isinstance(own, ColludingClient)}


def forge_updates(
    round_updates: RoundUpdates,
    server: Server,
    kinds: dict[int, ColludingClient],
    context: RoundContext,
    retrain: Retrainer,
) -> tuple[RoundUpdates, RoundContext]:
    """Return what was collected with the colluders' updates in the place of their honest ones.

    Attackers of one kind are forged together; what other attackers send counts as honest. What
    is forged is checked as everything that clients send: an update that cannot be used is its
    client's failure, and is left out here and among the senders.
    """
    rows, clients = round_updates.deltas, round_updates.clients.tolist()
    if rows is None or not set(clients) & set(kinds):
        return round_updates, context
    honest = torch.tensor([client not in kinds for client in clients])
    sent, causes = rows.clone(), dict[int, str]()
    for position, kind in enumerate(dict.fromkeys(kinds.values())):
        mine = torch.tensor([kinds.get(client) == kind for client in clients])
        if bool(mine.any()):
            known = _attack_context(round_updates, honest, mine, server, context, position)
            others = [
                client for client, is_honest in zip(clients, honest, strict=True) if is_honest
            ]
            known = replace(known, retrained=partial(_retrain, retrain, others))
            try:
                sent[mine] = _forge(kind, known)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit too
                causes |= dict.fromkeys(mine.nonzero().squeeze(1).tolist(), describe_error(error))
    norms = [compute_norm(row) for row in sent]
    causes |= {
        row: f"{NOT_FINITE}: what was forged has length {norm}"
        for row, norm in enumerate(norms)
        if not math.isfinite(norm) and row not in causes
    }
    updates = [
        replace(update, norm=norm) if update.client in kinds else update
        for update, norm in zip(round_updates.updates, norms, strict=True)
    ]
    whole = replace(round_updates, updates=updates, deltas=sent)
    if not causes:
        return whole, context
    return whole.drop(context.round, causes), context.select(whole.remaining_rows(causes))


def _forge(kind: ColludingClient, known: Collusion) -> Float[Tensor, "k p"]:
    """Return what colluders send, in the type of updates.

    Raises:
        InvalidUpdateError: for what has another form.
    """
    made: Any = kind.forge(known)
    if not isinstance(made, Tensor) or made.shape != known.own.shape:
        came = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise InvalidUpdateError(f"wrong shape of what was forged: {came}")
    if not made.is_floating_point():
        raise InvalidUpdateError(f"wrong type of what was forged: {made.dtype}")
    return made.detach().to(known.own.dtype)


def _retrain(retrain: Retrainer, clients: list[int], behaviour: Client) -> Tensor:
    return retrain(behaviour, clients)


def _attack_context(
    round_updates: RoundUpdates,
    honest: Bool[Tensor, " n"],
    mine: Bool[Tensor, " n"],
    server: Server,
    context: RoundContext,
    position: int,
) -> Collusion:
    """Return what the attackers of one kind know."""
    assert round_updates.deltas is not None
    rule, state = server.reveal_rule()
    order = torch.cat([honest.nonzero(), mine.nonzero()]).squeeze(1)
    return Collusion(
        honest=round_updates.deltas[honest],
        own=round_updates.deltas[mine],
        honest_weights=round_updates.weights[honest],
        own_weights=round_updates.weights[mine],
        rule=rule,
        state=state,
        rng=generator(context.seed, "round", context.round, "collusion", position),
        context=context.select(order),
    )
