"""Attackers that know what the others send: their updates are forged on the server's side."""

from dataclasses import replace

import torch
from torch import Tensor

from fl_sim.contracts import AggregationRule, ColludingClient, Collusion
from fl_sim.engine.pile import Collected
from fl_sim.engine.server import RuleServer, Server
from fl_sim.schedule import Schedule
from fl_sim.seeding import generator


def colluders(schedule: Schedule, number: int) -> dict[int, ColludingClient]:
    """Return the clients that collude in a round, and how."""
    attackers = sorted(schedule.attackers(number))
    found = {client: schedule.behaviour(client, number) for client in attackers}
    return {c: own for c, own in found.items() if isinstance(own, ColludingClient)}


def forged(
    collected: Collected, server: Server, kinds: dict[int, ColludingClient], number: int, seed: int
) -> Collected:
    """Return what was collected with the colluders' updates in the place of their honest ones.

    Attackers of one kind are forged together; what other attackers send counts as honest.
    """
    rows, clients = collected.rows, collected.clients.tolist()
    if rows is None or not set(clients) & set(kinds):
        return collected
    honest = torch.tensor([client not in kinds for client in clients])
    rule = server.rule if isinstance(server, RuleServer) else None
    state = server.state if isinstance(server, RuleServer) else None
    seen = rows[honest]
    for position, kind in enumerate(dict.fromkeys(kinds.values())):
        mine = torch.tensor([kinds.get(client) == kind for client in clients])
        if bool(mine.any()):
            rows[mine] = kind.forge(
                _seen(seen, collected, honest, mine, rule, state, number, seed, position)
            ).to(rows.dtype)
    norms = torch.linalg.vector_norm(rows, dim=1).tolist()
    updates = [
        replace(update, norm=norm) if update.client in kinds else update
        for update, norm in zip(collected.updates, norms, strict=True)
    ]
    return replace(collected, updates=updates)


def _seen(
    seen: Tensor,
    collected: Collected,
    honest: Tensor,
    mine: Tensor,
    rule: AggregationRule | None,
    state: object,
    number: int,
    seed: int,
    position: int,
) -> Collusion:
    assert collected.rows is not None
    return Collusion(
        honest=seen,
        own=collected.rows[mine],
        honest_weights=collected.weights[honest],
        own_weights=collected.weights[mine],
        rule=rule,
        state=state,
        rng=generator(seed, "round", number, "collusion", position),
    )
