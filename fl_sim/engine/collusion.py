"""Attackers that know what the others send: their updates are forged on the server's side."""

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from fl_sim.contracts import ColludingClient, Collusion, Senders
from fl_sim.engine.pile import Collected
from fl_sim.engine.server import Server
from fl_sim.schedule import Schedule
from fl_sim.seeding import generator


def colluders(schedule: Schedule, number: int) -> dict[int, ColludingClient]:
    """Return the clients that collude in a round, and how."""
    attackers = sorted(schedule.attackers(number))
    found = {client: schedule.behaviour(client, number) for client in attackers}
    return {c: own for c, own in found.items() if isinstance(own, ColludingClient)}


def forged(
    collected: Collected, server: Server, kinds: dict[int, ColludingClient], senders: Senders
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
            sent[mine] = kind.forge(seen).to(rows.dtype)
    norms = torch.linalg.vector_norm(sent, dim=1).tolist()
    updates = [
        replace(update, norm=norm) if update.client in kinds else update
        for update, norm in zip(collected.updates, norms, strict=True)
    ]
    return replace(collected, updates=updates, rows=sent)


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
