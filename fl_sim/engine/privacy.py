"""Rows of what privacy has cost so far, and what makes them worthless: all that leaves a client
beside its update.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fl_sim.accounting import spent
from fl_sim.contracts import AggregationRule, ColludingClient, Releases, Row
from fl_sim.engine.federation import Federation
from fl_sim.engine.server import RuleServer
from fl_sim.errors import RequestError

if TYPE_CHECKING:
    from fl_sim.engine.loop import State

NO_NOISE = "without noise there is no bound"


def privacy_rows(federation: Federation, state: "State", by_client: bool = True) -> Iterator[Row]:
    """Yield `epsilon` and `epsilon_rdp` after a round: of whole clients, and client by client.

    The latter only where `by_client` says so, as each client takes some milliseconds.

    `epsilon` is the figure of privacy loss distributions wherever there is one, which is tighter
    than that of Renyi differential privacy beside it. Who is protected, and from whom, stands in
    the group: `clients`, `images` or `local`; see `fl_sim.contracts.Releases`.
    """
    experiment, number = federation.experiment, state.round
    beside = beside_the_updates(federation, state)
    worthless = f"of the updates alone: also {beside} leave the clients" if beside else ""
    worthless = worthless or handed_on(federation, number)
    if isinstance(experiment.strategy, AggregationRule):
        try:
            released = experiment.strategy.releases(federation.draws[:number])
        except RequestError as error:
            yield _unknown("epsilon", number, "clients", str(error))
        else:
            yield from _rows(number, released, worthless)
    for client, memory in sorted(state.memories.items()) if by_client else ():
        try:
            released = _released_by(federation, client, number, memory)
            note = worthless or _otherwise(federation, client, number, memory)
        except Exception:  # of any class: who keeps it may have forged it
            yield _unknown("epsilon", number, "all", "what it keeps cannot be read", client)
            continue
        yield from _rows(number, released, note, client)


def beside_the_updates(federation: Federation, state: "State") -> str:
    """Return what leaves the clients, beside their updates, neither clipped nor with noise.

    Models are what is released; so it is whatever goes into them, or to all clients with them:

    - statistics of BatchNorm, which are averaged as they are;
    - vectors that clients send for the rule, such as SCAFFOLD's control variates;
    - losses of the global model on clients' data, where the rule asks for them.

    What only the server sees, such as the loss in training, does not count here.
    """
    start = federation.start_buffers
    changed = any(not torch.equal(own, start[name]) for name, own in state.buffers.items())
    found = ["statistics of BatchNorm"] if changed else []
    server = state.server
    if isinstance(server, RuleServer):
        told = server.rule.broadcast(server.state)
        found += sorted(f"{name} vectors" for name in federation.experiment.client.sends(told))
        found += ["losses on their data"] if server.rule.needs_losses else []
    return ", ".join(found)


def handed_on(federation: Federation, number: int) -> str:
    """Return how attackers have handed on what is in others' updates, by round `number`.

    Colluders make their updates from those of honest clients, and some from what these would
    have sent; attackers beside the clients train on copies of their images. What a client adds
    to a sum is then no longer in its own update alone, which is all that is bounded.
    """
    attacking = [
        own for own in federation.experiment.adversaries if own.count(federation.num_clients)
    ]
    for adversary in attacking:
        if not any(map(adversary.attacks, range(1, number + 1))):
            continue
        if isinstance(adversary.client, ColludingClient):
            return "of each client's own update alone: colluding attackers hand on what is in it"
        if adversary.beside:
            return "of each client's own update alone: attackers train on copies of its images"
    return ""


def _released_by(
    federation: Federation, client: int, number: int, memory: dict[str, Tensor]
) -> Releases | None:
    """Return what a client has released, if it was always as it is in round `number`."""
    workshop = federation.workshop
    behaviour = workshop.schedule.behaviour(client, number)
    return behaviour.releases(len(workshop.owners[client]), memory)


def _otherwise(federation: Federation, client: int, number: int, memory: dict[str, Tensor]) -> str:
    """Return in which round a client trained with other noise than now, as attackers may."""
    schedule, able = federation.workshop.schedule, federation.able
    if not federation.experiment.adversaries:
        return ""
    now = schedule.behaviour(client, number)
    released = _released_by(federation, client, number, memory)
    for earlier in range(1, number):
        changed = schedule.behaviour(client, earlier) != now
        changed = changed and _released_by(federation, client, earlier, memory) != released
        if changed and client in schedule.chosen(earlier, able):
            return f"of some rounds alone: in round {earlier} it trained otherwise"
    return ""


def _rows(number: int, released: Releases | None, note: str, client: int = -1) -> Iterator[Row]:
    """Yield both figures of what was released, not to be read where they say too little."""
    if released is None:
        return
    try:
        found = spent(released)
    except RequestError as error:
        yield _unknown("epsilon", number, released.protects, str(error), client)
        return
    for metric, value in (("epsilon", found.epsilon), ("epsilon_rdp", found.rdp)):
        why = NO_NOISE if math.isinf(value) else note
        yield Row(number, metric, value, client, released.protects, valid=not why, note=why)


def _unknown(metric: str, number: int, group: str, note: str, client: int = -1) -> Row:
    return Row(number, metric, math.nan, client, group, valid=False, note=note)
