"""Attackers that know what the others send: their updates are forged on the server's side."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fl_sim.contracts import Client, ColludingClient, Collusion, Senders
from fl_sim.engine.pile import Collected
from fl_sim.engine.server import Server
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
) -> Collected:
    """Return what was collected with the colluders' updates in the place of their honest ones.

    Attackers of one kind are forged together; what other attackers send counts as honest.
    """
    rows, clients = collected.rows, collected.clients.tolist()
    if rows is None or not set(clients) & set(kinds):
        return collected
    honest = torch.tensor([client not in kinds for client in clients])
    sent = rows.clone()
    for position, kind in enumerate(dict.fromkeys(kinds.values())):
        mine = torch.tensor([kinds.get(client) == kind for client in clients])
        if bool(mine.any()):
            seen = _seen(collected, honest, mine, server, senders, position)
            others = [
                client for client, is_honest in zip(clients, honest, strict=True) if is_honest
            ]
            seen = replace(seen, retrained=partial(_retrained, retrain, others))
            sent[mine] = kind.forge(seen).to(rows.dtype)
    norms = torch.linalg.vector_norm(sent, dim=1).tolist()
    updates = [
        replace(update, norm=norm) if update.client in kinds else update
        for update, norm in zip(collected.updates, norms, strict=True)
    ]
    return replace(collected, updates=updates, rows=sent)


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
