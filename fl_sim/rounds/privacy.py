"""Privacy cost of the rounds so far, and the releases beside updates that void its bounds."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fl_sim.contracts import AggregationRule, ColludingClient, Releases, Row
from fl_sim.core.errors import RequestError
from fl_sim.federation.federation import Federation
from fl_sim.models.parameters import select_statistics
from fl_sim.privacy.accounting import compute_epsilon
from fl_sim.rounds.server import RuleServer
from fl_sim.rounds.state import State

NO_NOISE = "without noise there is no bound"


def measure_privacy(federation: Federation, state: State, by_client: bool = True) -> Iterator[Row]:
    """Yield `epsilon` and `epsilon_rdp` after a round, of whole clients and of each client's data.

    `epsilon` comes from privacy loss distributions if possible, which is tighter than the Renyi
    differential privacy of `epsilon_rdp`. The group is the protected unit: `clients`, `images` or
    `local`; see `fl_sim.contracts.Releases`.

    Args:
        federation: The federation.
        state: The state after the round.
        by_client: Whether to include each client's own data, which takes milliseconds per client.
    """
    experiment, round_num = federation.experiment, state.round
    extra = find_extra_releases(federation, state)
    caveat = f"of the updates alone: also {extra} leave the clients" if extra else ""
    caveat = caveat or find_forwarded_releases(federation, round_num)
    if isinstance(experiment.strategy, AggregationRule):
        try:
            released = experiment.strategy.releases(federation.draws[:round_num])
        except RequestError as error:
            yield _make_unknown_row("epsilon", round_num, "clients", str(error))
        else:
            yield from _make_rows(round_num, released, caveat)
    for client, client_state in sorted(state.client_states.items()) if by_client else ():
        try:
            released = _get_releases(federation, client, round_num, client_state)
            note = caveat or _find_changed_training(federation, client, round_num, client_state)
        except Exception:  # of any class: an attacker may have forged its state
            note = "what it keeps cannot be read"
            yield _make_unknown_row("epsilon", round_num, "all", note, client)
            continue
        yield from _make_rows(round_num, released, note, client)


def find_extra_releases(federation: Federation, state: State) -> str:
    """Return the releases beside updates that are neither clipped nor noised, as words for a note.

    The models are published, and so is everything that goes into them or to all clients with them:

    - statistics of BatchNorm, which are averaged as they are;
    - vectors that clients send for the rule, such as SCAFFOLD's control variates;
    - losses of the global model on clients' data, if the rule uses them.

    Data that only the server receives, such as training losses, is not counted.
    """
    start, sent = federation.start_buffers, select_statistics(state.buffers)
    changed = any(not torch.equal(b, start[name]) for name, b in sent.items())
    releases = ["statistics of BatchNorm"] if changed else []
    server = state.server
    if isinstance(server, RuleServer):
        rule, rule_state = server.reveal_rule()
        received = rule.broadcast(rule_state)
        vectors = federation.experiment.client.sent_shapes(received)
        releases += sorted(f"{name} vectors" for name in vectors)
        releases += ["losses on their data"] if rule.needs_losses else []
    return ", ".join(releases)


def find_forwarded_releases(federation: Federation, round_num: int) -> str:
    """Return the way in which attackers pass on the data of others, up to a round, for a note.

    Colluders forge their updates from honest ones, and some from updates that honest clients would
    have sent; attackers beside the clients train on copies of their images. A client's data then
    affects other updates than its own, which is the only one that is bounded.
    """
    for adversary in federation.experiment.adversaries:
        if not adversary.count(federation.num_clients):
            continue
        if not any(map(adversary.is_active, range(1, round_num + 1))):
            continue
        if isinstance(adversary.client, ColludingClient):
            return "of each client's own update alone: colluding attackers hand on what is in it"
        if adversary.beside:
            return "of each client's own update alone: attackers train on copies of its images"
    return ""


def _get_releases(
    federation: Federation, client: int, round_num: int, client_state: dict[str, Tensor]
) -> Releases | None:
    """Return the releases of a client, as if it always behaved as in the given round."""
    behaviour = federation.schedule.behaviour(client, round_num)
    return behaviour.releases(len(federation.shards.owners[client]), client_state)


def _find_changed_training(
    federation: Federation, client: int, round_num: int, client_state: dict[str, Tensor]
) -> str:
    """Return an earlier round in which a client trained with other noise, for a note."""
    schedule, eligible = federation.schedule, federation.clients_with_data
    if not federation.experiment.adversaries:
        return ""
    now = schedule.behaviour(client, round_num)
    released = _get_releases(federation, client, round_num, client_state)
    for earlier in range(1, round_num):
        changed = schedule.behaviour(client, earlier) != now
        changed = changed and _get_releases(federation, client, earlier, client_state) != released
        if changed and client in schedule.choose_clients(earlier, eligible):
            return f"of some rounds alone: in round {earlier} it trained otherwise"
    return ""


def _make_rows(
    round_num: int, released: Releases | None, note: str, client: int = -1
) -> Iterator[Row]:
    """Yield both figures of the releases, invalid if a note limits them, and their delta."""
    if released is None:
        return
    try:
        cost = compute_epsilon(released)
    except RequestError as error:
        yield _make_unknown_row("epsilon", round_num, released.protects, str(error), client)
        return
    for metric, value in (("epsilon", cost.epsilon), ("epsilon_rdp", cost.rdp)):
        reason = NO_NOISE if math.isinf(value) else note
        group, valid = released.protects, not reason
        yield Row(round_num, metric, value, client, group, valid=valid, note=reason)
    yield Row(round_num, "epsilon_delta", released.delta, client, released.protects)


def _make_unknown_row(metric: str, round_num: int, group: str, note: str, client: int = -1) -> Row:
    return Row(round_num, metric, math.nan, client, group, valid=False, note=note)
