"""Rows of what privacy has cost so far, and what makes them worthless: all that leaves a client
beside its update.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from fl_sim.accounting import spent
from fl_sim.contracts import AggregationRule, Releases, Row
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
    if isinstance(experiment.strategy, AggregationRule):
        try:
            released = experiment.strategy.releases(federation.draws[:number])
        except RequestError as error:
            yield _unknown("epsilon", number, "clients", str(error))
        else:
            yield from _rows(number, released, beside)
    for client, memory in sorted(state.memories.items()) if by_client else ():
        behaviour = federation.workshop.schedule.behaviour(client, number)
        released = behaviour.releases(federation.workshop.sizes[client], memory)
        yield from _rows(number, released, beside, client)


def beside_the_updates(federation: Federation, state: "State") -> str:
    """Return what leaves the clients, beside their updates, neither clipped nor with noise.

    Models are what is released; so it is whatever goes into them, or to all clients with them:

    - statistics of BatchNorm, which are averaged as they are;
    - vectors that clients send for the rule, where the rule tells all clients what it made of
      them, such as SCAFFOLD's control variates;
    - losses of the global model on clients' data, where the rule asks for them.

    What only the server sees, such as the loss in training, does not count here.
    """
    start = federation.start_buffers
    changed = any(not torch.equal(own, start[name]) for name, own in state.buffers.items())
    found = ["statistics of BatchNorm"] if changed else []
    server = state.server
    if isinstance(server, RuleServer):
        found += sorted(f"{name} vectors" for name in server.rule.broadcast(server.state))
        found += ["losses on their data"] if server.rule.needs_losses else []
    return ", ".join(found)


def _rows(number: int, released: Releases | None, beside: str, client: int = -1) -> Iterator[Row]:
    """Yield both figures of what was released, not to be read where they say too little."""
    if released is None:
        return
    try:
        found = spent(released)
    except RequestError as error:
        yield _unknown("epsilon", number, released.protects, str(error), client)
        return
    yield _row("epsilon", found.epsilon, number, released, beside, client)
    yield _row("epsilon_rdp", found.rdp, number, released, beside, client)


def _row(
    metric: str, value: float, number: int, released: Releases, beside: str, client: int
) -> Row:
    note = f"of the updates alone: also {beside} leave the clients" if beside else ""
    if math.isinf(value):
        note = NO_NOISE
    group = released.protects
    return Row(number, metric, value, client, group, valid=not note, note=note)


def _unknown(metric: str, number: int, group: str, note: str, client: int = -1) -> Row:
    return Row(number, metric, math.nan, client, group, valid=False, note=note)
