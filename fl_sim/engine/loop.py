"""THE loop: one round after another, in plain sight."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from fl_sim.contracts import Client, Failure, Row, Senders, Update
from fl_sim.engine.collusion import Retrainer, colluders, forged
from fl_sim.engine.crew import Crew
from fl_sim.engine.evaluation import Ending, needs_updates
from fl_sim.engine.federation import Federation
from fl_sim.engine.measure import Seen, measure
from fl_sim.engine.model_checks import check_loss, check_step, check_use, likely_cause
from fl_sim.engine.orders import NOBODY, Order, Task, Tensors, cut
from fl_sim.engine.pile import Collected, Pile
from fl_sim.engine.processor import Processor
from fl_sim.engine.server import Plan, Server, senders_of
from fl_sim.engine.update_checks import is_finite
from fl_sim.errors import RunFailedError
from fl_sim.experiment import FailurePolicy
from fl_sim.models.batches import counted
from fl_sim.sums import weighted_sum


@dataclass
class State:
    """Where a run stands after a round: all that a checkpoint has to keep."""

    round: int
    parameters: Float[Tensor, " p"]
    buffers: Tensors
    server: Server
    memories: dict[int, Tensors] = field(default_factory=dict)
    cohort: bool = False


@dataclass(frozen=True, eq=False)
class Played:
    """A round that is over: the state after it, and what it adds to the results."""

    state: State
    rows: list[Row]
    failures: list[Failure]


def initial_state(federation: Federation, server: Server) -> State:
    """Return the state before the first round."""
    return State(0, federation.start, federation.start_buffers, server)


def rounds(federation: Federation, state: State, crew: Crew) -> Iterator[Played]:
    """Run the rounds that are left, yielding each as it is over.

    Raises:
        RunFailedError: where the failure policy ends the run.
    """
    schedule = federation.workshop.schedule
    for number in range(state.round + 1, federation.experiment.rounds + 1):
        started, processor = perf_counter(), Processor(crew)
        chosen = schedule.chosen(number, federation.able)
        absent = schedule.absent(number, chosen)
        plan = planned(federation, state, number, [c for c in chosen if c not in absent])
        collected = collect(federation, state, crew, plan)
        collected = state.server.screened(number, collected, idle(federation))
        senders = known(federation, plan, collected)
        kinds, retrain = colluders(schedule, number), retrainer(federation, state, plan)
        collected, senders = forged(collected, state.server, kinds, senders, retrain)
        if plan.clients or not may_be_empty(federation):
            judge(federation, number, collected)
        state.parameters, decision = state.server.advance(plan, collected, senders)
        state.buffers = mean_buffers(collected.updates) or state.buffers
        culprit = partial(likely_cause, collected.updates, decision)
        check_step(number, state.parameters, state.buffers, state.server, culprit)
        state.memories |= {u.client: u.memory for u in collected.updates if u.memory}
        state.round = number
        failures = [Failure(number, client, cause) for client, cause in sorted(absent.items())]
        failures += collected.failures
        delivered = collected.clients.tolist()
        ending = Ending(plan.order.parameters, delivered, collected.rows, state.buffers)
        took = perf_counter() - started
        cpu_seconds, cpu_note = processor.spent()
        seen = Seen(collected.updates, decision, failures, took, ending, cpu_seconds, cpu_note)
        rows = measure(federation, state, crew, seen)
        check_loss(number, rows, culprit)
        check_use(federation, number, state.parameters, state.buffers, culprit)
        yield Played(state, rows, failures)


def planned(federation: Federation, state: State, number: int, present: list[int]) -> Plan:
    """Return what the round is to be: updates are stacked where anybody has to see them all."""
    schedule, sizes = federation.workshop.schedule, federation.workshop.sizes
    order = Order(
        round=number,
        parameters=state.parameters,
        buffers=state.buffers,
        adds_up=not (colluders(schedule, number) or needs_updates(federation.experiment, number)),
        cohort=state.cohort,
    )
    weights = torch.tensor([sizes[client] for client in present], dtype=torch.float64)
    return state.server.plan(order, _senders(federation, number, present), weights)


def _senders(federation: Federation, number: int, clients: list[int]) -> Senders:
    experiment, sizes = federation.experiment, federation.workshop.sizes
    least = federation.workshop.least_batch
    steps = [experiment.client.num_steps(counted(sizes[client], least)) for client in clients]
    draw, num_clients = federation.draws[number - 1], federation.num_clients
    return senders_of(clients, steps, num_clients, number, experiment.seed, draw)


def collect(federation: Federation, state: State, crew: Crew, plan: Plan) -> Collected:
    """Have the round's clients trained, and gather what they send."""
    workshop, number = federation.workshop, plan.order.round
    tasks = [
        Task(client, factor, state.memories.get(client, {}))
        for client, factor in zip(plan.clients, plan.factors, strict=True)
    ]
    costs = [workshop.cost(client, number) for client in plan.clients]
    pile = Pile(plan.order, plan.clients)
    together = plan.order.cohort and workshop.allows_cohorts
    chunks = cut(tasks, costs, together, len(plan.order.parameters))
    for position, done in crew.train(plan.order, chunks):
        raise_if_asked(workshop.policy, done.failures)
        pile.add(position, done)
    return pile.collected()


def raise_if_asked(policy: FailurePolicy, failures: list[Failure]) -> None:
    """End the run at a client's failure where the policy says so.

    Raises:
        RunFailedError: naming the round, the client and the cause.
    """
    own = [failure for failure in failures if failure.client != NOBODY]
    if own and policy.on_failure == "raise":
        raise RunFailedError(f"round {own[0].round}, client {own[0].client}: {own[0].cause}")


def judge(federation: Federation, number: int, collected: Collected) -> None:
    """End the run where too few updates came in, or where any failure is to end it."""
    policy, failures = federation.experiment.failures, collected.failures
    raise_if_asked(policy, failures)
    if len(collected.updates) < policy.min_updates:
        cause = f"; client {failures[-1].client}: {failures[-1].cause}" if failures else ""
        raise RunFailedError(
            f"round {number}: {len(collected.updates)} valid updates, failures.min_updates is "
            f"{policy.min_updates}{cause}"
        )


def may_be_empty(federation: Federation) -> bool:
    """Return whether a round for which nobody is there is as good as any other."""
    return federation.experiment.participation.sampling == "poisson"


def known(federation: Federation, plan: Plan, collected: Collected) -> Senders:
    """Return what is known of those who delivered, with what they sent beside their updates.

    Raises:
        RunFailedError: where the server's own update is not finite.
    """
    senders = _senders(federation, plan.order.round, collected.clients.tolist())
    owners = federation.workshop.owners
    hold = [len(owners[update.client]) > 0 for update in collected.updates]
    trained = torch.tensor(hold, dtype=torch.bool)
    updates = [update for update in collected.updates if len(owners[update.client])]
    losses = torch.tensor([update.loss for update in updates], dtype=torch.float64)
    names = list(updates[0].sent) if updates else []  # checked: the same for all
    sent = {name: torch.stack([u.sent[name] for u in updates]) for name in names}
    reference = federation.root_update(plan.order)
    if reference is not None and not is_finite(reference):
        raise RunFailedError(f"round {plan.order.round}: the server's own update is not finite")
    return replace(
        senders,
        losses=_filled(losses, trained),
        sent={name: _filled(rows, trained) for name, rows in sent.items()},
        reference=reference,
        parameters=plan.order.parameters,
    )


def idle(federation: Federation) -> frozenset[int]:
    """Return the clients that have nothing to train on: they report no numbers."""
    owners = federation.workshop.owners
    return frozenset(client for client, own in enumerate(owners) if not len(own))


def _filled(
    values: Shaped[Tensor, "m ..."], trained: Bool[Tensor, " n"]
) -> Shaped[Tensor, "n ..."]:
    """Return the values of those who trained; those who hold nothing tell the mean of them."""
    if bool(trained.all()):
        return values
    mean = values.mean(0) if len(values) else values.new_full(values.shape[1:], torch.nan)
    filled = mean.expand(len(trained), *mean.shape).clone()
    filled[trained] = values
    return filled


def retrainer(federation: Federation, state: State, plan: Plan) -> Retrainer:
    """Return what trains clients of the round again, as if they behaved like another one."""

    def retrained(behaviour: Client, clients: list[int]) -> Float[Tensor, "m p"]:
        workshop, order = federation.workshop, plan.order
        rows = []
        for client in clients:
            task = Task(client, memory=state.memories.get(client, {}))
            update, _ = workshop.trained(
                order, task, behaviour, workshop.shard(client, order.round)
            )
            rows.append(update.delta)
        return torch.stack([row for row in rows if row is not None])

    return retrained


def mean_buffers(updates: list[Update]) -> Tensors:
    """Return the buffers averaged by shard size, in float64; counters are copied."""
    if not updates or not updates[0].buffers:
        return {}
    sizes = torch.tensor([update.num_examples for update in updates], dtype=torch.float64)
    merged = {}
    for name, first in updates[0].buffers.items():
        if first.is_floating_point():
            stack = torch.stack([update.buffers[name].reshape(-1) for update in updates])
            merged[name] = weighted_sum(sizes / sizes.sum(), stack).to(first.dtype).view_as(first)
        else:
            merged[name] = first
    return merged
