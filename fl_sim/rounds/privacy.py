"""Rows of what privacy has cost so far, and what makes them worthless: all that leaves a client
beside its update.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fl_sim.contracts import AggregationRule, ColludingClient, Releases, Row
from fl_sim.core.errors import RequestError
from fl_sim.federation.federation import Federation
from fl_sim.privacy.accounting import compute_epsilon
from fl_sim.rounds.server import RuleServer
from fl_sim.rounds.state import State

NO_NOISE = "without noise there is no bound"


def measure_privacy(federation: Federation, state: State, by_client: bool = True) -> Iterator[Row]:
    """Yield `epsilon` and `epsilon_rdp` after a round: of whole clients, and client by client.

    The latter only where `by_client` says so, as each client takes some milliseconds.

    `epsilon` is the figure of privacy loss distributions wherever there is one, which is tighter
    than that of Renyi differential privacy beside it. Who is protected, and from whom, stands in
    the group: `clients`, `images` or `local`; see `fl_sim.contracts.Releases`.
    """
    experiment, round_num = federation.experiment, state.round
    beside = find_extra_releases(federation, state)
    worthless = f"of the updates alone: also {beside} leave the clients" if beside else ""
    worthless = worthless or find_forwarded_releases(federation, round_num)
    if isinstance(experiment.strategy, AggregationRule):
        try:
            released = experiment.strategy.releases(federation.draws[:round_num])
        except RequestError as error:
            yield _make_unknown_row("epsilon", round_num, "clients", str(error))
        else:
            yield from _make_rows(round_num, released, worthless)
    for client, memory in sorted(state.client_states.items()) if by_client else ():
        try:
            released = _get_releases(federation, client, round_num, memory)
            note = worthless or _find_changed_training(federation, client, round_num, memory)
        except Exception:  # of any class: who keeps it may have forged it
            yield _make_unknown_row(
                "epsilon", round_num, "all", "what it keeps cannot be read", client
            )
            continue
        yield from _make_rows(round_num, released, note, client)


def find_extra_releases(federation: Federation, state: State) -> str:
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
        found += sorted(
            f"{name} vectors" for name in federation.experiment.client.sent_shapes(told)
        )
        found += ["losses on their data"] if server.rule.needs_losses else []
    return ", ".join(found)


def find_forwarded_releases(federation: Federation, round_num: int) -> str:
    """Return how attackers have handed on what is in others' updates, by round `number`.

    Colluders make their updates from those of honest clients, and some from what these would
    have sent; attackers beside the clients train on copies of their images. What a client adds
    to a sum is then no longer in its own update alone, which is all that is bounded.
    """
    attacking = [
        own for own in federation.experiment.adversaries if own.count(federation.num_clients)
    ]
    for adversary in attacking:
        if not any(map(adversary.is_active, range(1, round_num + 1))):
            continue
        if isinstance(adversary.client, ColludingClient):
            return "of each client's own update alone: colluding attackers hand on what is in it"
        if adversary.beside:
            return "of each client's own update alone: attackers train on copies of its images"
    return ""


def _get_releases(
    federation: Federation, client: int, round_num: int, memory: dict[str, Tensor]
) -> Releases | None:
    """Return what a client has released, if it was always as it is in round `number`."""
    behaviour = federation.schedule.behaviour(client, round_num)
    return behaviour.releases(len(federation.shards.owners[client]), memory)


def _find_changed_training(
    federation: Federation, client: int, round_num: int, memory: dict[str, Tensor]
) -> str:
    """Return in which round a client trained with other noise than now, as attackers may."""
    schedule, able = federation.schedule, federation.clients_with_data
    if not federation.experiment.adversaries:
        return ""
    now = schedule.behaviour(client, round_num)
    released = _get_releases(federation, client, round_num, memory)
    for earlier in range(1, round_num):
        changed = schedule.behaviour(client, earlier) != now
        changed = changed and _get_releases(federation, client, earlier, memory) != released
        if changed and client in schedule.choose_clients(earlier, able):
            return f"of some rounds alone: in round {earlier} it trained otherwise"
    return ""


def _make_rows(
    round_num: int, released: Releases | None, note: str, client: int = -1
) -> Iterator[Row]:
    """Yield both figures of what was released, not to be read where they say too little."""
    if released is None:
        return
    try:
        found = compute_epsilon(released)
    except RequestError as error:
        yield _make_unknown_row("epsilon", round_num, released.protects, str(error), client)
        return
    for metric, value in (("epsilon", found.epsilon), ("epsilon_rdp", found.rdp)):
        why = NO_NOISE if math.isinf(value) else note
        yield Row(round_num, metric, value, client, released.protects, valid=not why, note=why)


def _make_unknown_row(metric: str, round_num: int, group: str, note: str, client: int = -1) -> Row:
    return Row(round_num, metric, math.nan, client, group, valid=False, note=note)
