"""Attackers that know what the others send: their updates are forged on the server's side."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fl_sim.contracts import Client, ColludingClient, Collusion, Senders
from fl_sim.engine.pile import Collected
from fl_sim.engine.server import Server
from fl_sim.engine.update_checks import NOT_FINITE, InvalidUpdateError, in_words, length
from fl_sim.schedule import Schedule
from fl_sim.seeding import generator

# What clients, given by number, would send if they behaved like another client.
Retrainer = Callable[[Client, list[int]], Float[Tensor, "m p"]]


def colluders(schedule: Schedule, number: int) -> dict[int, ColludingClient]:
    """Return the clients that collude in a round, and how."""
    attackers = sorted(schedule.attackers(number))
    found = {client: schedule.behaviour(client, number) for client in attackers}
    return {c: own for c, own in found.items() if isinstance(own, ColludingClient)}


def forged(
    collected: Collected,
    server: Server,
    kinds: dict[int, ColludingClient],
    senders: Senders,
    retrain: Retrainer,
) -> tuple[Collected, Senders]:
    """Return what was collected with the colluders' updates in the place of their honest ones.

    Attackers of one kind are forged together; what other attackers send counts as honest. What
    is forged is checked as everything that clients send: an update that cannot be used is its
    client's failure, and is left out here and among the senders.
    """
    rows, clients = collected.rows, collected.clients.tolist()
    if rows is None or not set(clients) & set(kinds):
        return collected, senders
    honest = torch.tensor([client not in kinds for client in clients])
    sent, causes = rows.clone(), dict[int, str]()
    for position, kind in enumerate(dict.fromkeys(kinds.values())):
        mine = torch.tensor([kinds.get(client) == kind for client in clients])
        if bool(mine.any()):
            seen = _seen(collected, honest, mine, server, senders, position)
            others = [
                client for client, is_honest in zip(clients, honest, strict=True) if is_honest
            ]
            seen = replace(seen, retrained=partial(_retrained, retrain, others))
            try:
                sent[mine] = _made(kind, seen)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit too
                causes |= dict.fromkeys(mine.nonzero().squeeze(1).tolist(), in_words(error))
    norms = [length(row) for row in sent]
    causes |= {
        row: f"{NOT_FINITE}: what was forged has length {norm}"
        for row, norm in enumerate(norms)
        if not math.isfinite(norm) and row not in causes
    }
    updates = [
        replace(update, norm=norm) if update.client in kinds else update
        for update, norm in zip(collected.updates, norms, strict=True)
    ]
    whole = replace(collected, updates=updates, rows=sent)
    if not causes:
        return whole, senders
    return whole.without(senders.round, causes), senders.at(whole.left(causes))


def _made(kind: ColludingClient, seen: Collusion) -> Float[Tensor, "k p"]:
    """Return what colluders send, in the type of updates.

    Raises:
        InvalidUpdateError: for what has another form.
    """
    made: Any = kind.forge(seen)
    if not isinstance(made, Tensor) or made.shape != seen.own.shape:
        came = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise InvalidUpdateError(f"wrong shape of what was forged: {came}")
    if not made.is_floating_point():
        raise InvalidUpdateError(f"wrong type of what was forged: {made.dtype}")
    return made.detach().to(seen.own.dtype)


def _retrained(retrain: Retrainer, clients: list[int], behaviour: Client) -> Tensor:
    return retrain(behaviour, clients)


def _seen(
    collected: Collected,
    honest: Bool[Tensor, " n"],
    mine: Bool[Tensor, " n"],
    server: Server,
    senders: Senders,
    position: int,
) -> Collusion:
    """Return what the attackers of one kind know."""
    assert collected.rows is not None
    known = server.known_rule()
    order = torch.cat([honest.nonzero(), mine.nonzero()]).squeeze(1)
    return Collusion(
        honest=collected.rows[honest],
        own=collected.rows[mine],
        honest_weights=collected.weights[honest],
        own_weights=collected.weights[mine],
        rule=known.rule,
        state=known.state,
        rng=generator(senders.seed, "round", senders.round, "collusion", position),
        senders=senders.at(order),
    )
