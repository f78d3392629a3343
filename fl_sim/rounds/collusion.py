"""Collusion of attackers, which know the updates of others: the server's side forges theirs."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fl_sim.contracts import Client, ColludingClient, Collusion, RoundContext
from fl_sim.core.device import move, on_device
from fl_sim.core.seeding import generator
from fl_sim.rounds.accumulator import RoundUpdates
from fl_sim.rounds.server import Server
from fl_sim.schedule import Schedule
from fl_sim.training import update_checks

# Returns the updates that clients, given by number, would send with another client's behaviour.
Retrainer = Callable[[Client, list[int]], Float[Tensor, "m p"]]


def find_colluders(schedule: Schedule, round_num: int) -> dict[int, ColludingClient]:
    """Return the clients that collude in a round, with their behaviours."""
    experiment = schedule.experiment
    parts = (experiment.client, *(adversary.client for adversary in experiment.adversaries))
    clients = (client for part in parts for _, client in part.walk("client"))
    if not any(isinstance(client, ColludingClient) for client in clients):
        return {}  # without a draw of the round's attackers, which is slow
    attackers = sorted(schedule.attackers(round_num))
    behaviours = {client: schedule.behaviour(client, round_num) for client in attackers}
    return {c: b for c, b in behaviours.items() if isinstance(b, ColludingClient)}


def forge_updates(
    round_updates: RoundUpdates,
    server: Server,
    colluders: dict[int, ColludingClient],
    context: RoundContext,
    retrain: Retrainer,
) -> tuple[RoundUpdates, RoundContext]:
    """Replace the colluders' honest updates by forged ones; return the updates and their context.

    Attackers of one kind forge together; updates of other attackers count as honest. Forged updates
    are checked like all others: one that cannot be used becomes a failure of its client, and is
    removed from the updates and from the context.

    Args:
        round_updates: The updates of the round, stacked.
        server: The server, whose rule the attackers may know.
        colluders: The behaviour of each colluder, by client.
        context: The context of the updates.
        retrain: Trains honest clients again with another behaviour.
    """
    deltas, clients = round_updates.deltas, round_updates.clients.tolist()
    if deltas is None or not set(clients) & set(colluders):
        return round_updates, context
    with on_device(deltas.device):
        return _forge_updates(round_updates, server, colluders, context, retrain)


def _forge_updates(
    round_updates: RoundUpdates,
    server: Server,
    colluders: dict[int, ColludingClient],
    context: RoundContext,
    retrain: Retrainer,
) -> tuple[RoundUpdates, RoundContext]:
    """Forge where the stack of updates is; see `forge_updates`."""
    deltas, clients = round_updates.deltas, round_updates.clients.tolist()
    assert deltas is not None
    honest = torch.tensor([client not in colluders for client in clients])
    forged, causes = deltas.clone(), dict[int, str]()
    for position, kind in enumerate(dict.fromkeys(colluders.values())):
        members = torch.tensor([colluders.get(client) == kind for client in clients])
        if bool(members.any()):
            collusion = _attack_context(round_updates, honest, members, server, context, position)
            others = [client for client in clients if client not in colluders]
            collusion = replace(collusion, retrained=partial(_retrain, retrain, others))
            try:
                forged[members] = _forge(kind, collusion)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                rows = members.nonzero().squeeze(1).tolist()
                causes |= dict.fromkeys(rows, update_checks.describe_error(error))
    norms = [update_checks.compute_norm(row) for row in forged]
    causes |= {
        row: f"{update_checks.NOT_FINITE}: what was forged has length {norm}"
        for row, norm in enumerate(norms)
        if not math.isfinite(norm) and row not in causes
    }
    updates = [
        replace(update, norm=norm) if update.client in colluders else update
        for update, norm in zip(round_updates.updates, norms, strict=True)
    ]
    merged = replace(round_updates, updates=updates, deltas=forged)
    if not causes:
        return merged, context
    left = merged.remaining_rows(causes).cpu()
    return merged.drop(context.round, causes), context.select(left)


def _forge(kind: ColludingClient, collusion: Collusion) -> Float[Tensor, "k p"]:
    """Return the updates that colluders send, in the type of honest ones.

    Raises:
        update_checks.InvalidUpdateError: If they have another form.
    """
    forged: Any = kind.forge(collusion)
    if not isinstance(forged, Tensor) or forged.shape != collusion.own.shape:
        shape = tuple(forged.shape) if isinstance(forged, Tensor) else type(forged).__name__
        raise update_checks.InvalidUpdateError(f"wrong shape of what was forged: {shape}")
    if not forged.is_floating_point():
        raise update_checks.InvalidUpdateError(f"wrong type of what was forged: {forged.dtype}")
    return forged.detach().to(collusion.own.dtype)


def _retrain(retrain: Retrainer, clients: list[int], behaviour: Client) -> Tensor:
    return retrain(behaviour, clients)


def _attack_context(
    round_updates: RoundUpdates,
    honest: Bool[Tensor, " n"],
    members: Bool[Tensor, " n"],
    server: Server,
    context: RoundContext,
    position: int,
) -> Collusion:
    """Return the knowledge of the attackers of one kind."""
    assert round_updates.deltas is not None
    place = round_updates.deltas.device
    (rule, state), context = server.reveal_rule(), move(context, place)
    order = torch.cat([honest.nonzero(), members.nonzero()]).squeeze(1)
    return Collusion(
        honest=round_updates.deltas[honest],
        own=round_updates.deltas[members],
        honest_weights=round_updates.weights[honest],
        own_weights=round_updates.weights[members],
        rule=rule,
        state=move(state, place),
        rng=generator(context.seed, "round", context.round, "collusion", position),
        context=context.select(order),
    )
