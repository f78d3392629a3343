"""The training loop: one round after another, with a callback at each step."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from time import perf_counter

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from fl_sim.backends.base import Backend, InProcessBackend
from fl_sim.contracts import (
    AggregationResult,
    AggregationRule,
    Client,
    Failure,
    RoundContext,
    Update,
)
from fl_sim.core.device import move, new_tensors_device
from fl_sim.core.errors import RunFailedError
from fl_sim.core.sums import weighted_sum
from fl_sim.experiment import FailurePolicy
from fl_sim.federation.federation import SERVER, Federation, load_federation
from fl_sim.models import parameters
from fl_sim.models.batches import count_samples
from fl_sim.models.closed_form import set_head, split_parameters
from fl_sim.models.parameters import list_low_rank_places
from fl_sim.rounds.accumulator import RoundUpdates, UpdateAccumulator
from fl_sim.rounds.callbacks import Callback, CallbackList
from fl_sim.rounds.collusion import Retrainer, find_colluders, forge_updates
from fl_sim.rounds.cpu_timer import CpuTimer
from fl_sim.rounds.evaluation import needs_updates
from fl_sim.rounds.measure import measure_round
from fl_sim.rounds.model_checks import check_loss, check_step, check_use, describe_likely_cause
from fl_sim.rounds.server import RuleServer, Server, make_context
from fl_sim.rounds.state import RoundOutcome, State
from fl_sim.rounds.stopping import is_over
from fl_sim.training.client_trainer import make_trainer
from fl_sim.training.tasks import NO_CLIENT, ClientTask, RoundConfig, Tensors, cut_chunks
from fl_sim.training.update_checks import is_finite


def create_state(federation: Federation, server: Server) -> State:
    """Return the state before the first round."""
    return State(0, federation.start, federation.start_buffers, server)


def run_rounds(
    federation: Federation, state: State, backend: Backend, callbacks: Sequence[Callback] = ()
) -> Iterator[RoundOutcome]:
    """Run the remaining rounds, and yield the outcome of each after the callbacks.

    Args:
        federation: The federation before its first round.
        state: The state to continue from; changed in place.
        backend: Trains the clients and scores the model.
        callbacks: Called at the hooks of each round, in order.

    Raises:
        RunFailedError: If the failure policy, or a model that diverged, ends the run.
    """
    hooks = CallbackList(callbacks)
    backend.watch(hooks.on_client_update if hooks.watches_updates else None)
    try:
        hooks.on_run_start(federation, state)
        while not is_over(federation.experiment, state.round, state.watched):
            outcome = run_round(federation, state, backend, hooks, state.round + 1)
            hooks.on_round_end(outcome)
            yield outcome
    except BaseException as error:
        try:
            hooks.on_run_end(error)
        except Exception as second:  # it must not hide the cause, such as an interrupt
            error.add_note(f"on_run_end raised {second!r}")
        raise
    hooks.on_run_end(None)


def run_round(
    federation: Federation, state: State, backend: Backend, hooks: Callback, round_num: int
) -> RoundOutcome:
    """Run one round: choose clients, train, forge, aggregate, check and measure."""
    started, timer, schedule = perf_counter(), CpuTimer(backend), federation.schedule
    chosen = schedule.choose_clients(round_num, federation.clients_with_data)
    absent = schedule.find_absent(round_num, chosen)
    present = [client for client in chosen if client not in absent]
    if round_num == 1 and federation.experiment.model.warm_start:
        state.parameters = start_from_closed_form(federation)
    config = plan_round(federation, state, backend, round_num, present)
    hooks.on_round_start(config)

    hooks.on_phase_start("training")
    round_updates = collect_updates(state, backend, config)

    hooks.on_phase_start("aggregation")
    idle = find_clients_without_data(federation)
    round_updates = state.server.screen(round_num, round_updates, idle)
    context = build_context(federation, backend, config, round_updates)
    colluders = find_colluders(schedule, round_num)
    retrain = make_retrainer(state, backend, config)
    round_updates, context = forge_updates(round_updates, state.server, colluders, context, retrain)
    if config.clients or not can_be_empty(federation):
        check_failures(federation, round_num, round_updates)
    state.parameters, result = state.server.advance(config, round_updates, context)
    state.buffers = state.buffers | average_buffers(round_updates.updates)
    state.buffers |= change_base(state.buffers, result)
    culprit = partial(describe_likely_cause, round_updates.updates, result)
    check_step(round_num, state.parameters, state.buffers, state.server, culprit)
    state.client_states |= {u.client: u.memory for u in round_updates.updates if u.memory}
    state.round = round_num

    failures = [Failure(round_num, client, cause) for client, cause in sorted(absent.items())]
    outcome = RoundOutcome(state, config, round_updates, result, failures + round_updates.failures)
    outcome.seconds = perf_counter() - started
    outcome.cpu_seconds, outcome.cpu_note = timer.measure()
    outcome.rows = measure_round(federation, backend, outcome, hooks)
    check_loss(round_num, outcome.rows, culprit)
    check_use(federation, backend, state, culprit)
    return outcome


def start_from_closed_form(federation: Federation) -> Float[Tensor, " p"]:
    """Return the parameters before the first round, with the head of `model.warm_start`.

    It is solved in this process, from statistics of the clients of the first round; the time and
    the bytes of it count in that round.
    """
    first = load_federation(federation.experiment.closed_form_start().to_json())
    rule = first.experiment.strategy
    assert isinstance(rule, AggregationRule)
    state = create_state(first, RuleServer(rule, len(first.start)))
    run_round(first, state, InProcessBackend(make_trainer(first)), Callback(), 1)
    shapes = parameters.parameter_shapes(first.model)
    model = deepcopy(federation.model)
    parameters.load_flat(model, federation.start)
    set_head(model, split_parameters(state.parameters, shapes))
    return parameters.flatten(model).cpu()


def plan_round(
    federation: Federation, state: State, backend: Backend, round_num: int, present: list[int]
) -> RoundConfig:
    """Return the settings of a round for the clients that are present."""
    sizes = federation.shards.sizes
    config = RoundConfig(
        round=round_num,
        parameters=state.parameters,
        buffers=state.buffers,
        sum_updates=can_sum_updates(federation, round_num),
        batch_clients=state.batch_clients,
    )
    weights = torch.tensor([sizes[client] for client in present], dtype=torch.float64)
    context = _expected_context(federation, backend, round_num, present)
    return state.server.plan(config, context, weights)


def can_sum_updates(federation: Federation, round_num: int) -> bool:
    """Return whether the updates of a round can be summed as they come in, without a stack.

    The rule has to be linear, and neither colluding attackers nor metrics may need single updates.
    """
    experiment = federation.experiment
    return (
        isinstance(experiment.strategy, AggregationRule)
        and experiment.strategy.at_round(round_num).linear is not None
        and not find_colluders(federation.schedule, round_num)
        and not needs_updates(experiment, round_num)
    )


def _expected_context(
    federation: Federation, backend: Backend, round_num: int, clients: list[int]
) -> RoundContext:
    experiment, sizes = federation.experiment, federation.shards.sizes
    least = backend.trainer.min_batch_size
    steps = [experiment.client.num_steps(count_samples(sizes[client], least)) for client in clients]
    draw, num_clients = federation.draws[round_num - 1], federation.num_clients
    return make_context(clients, steps, num_clients, round_num, experiment.seed, draw)


def collect_updates(state: State, backend: Backend, config: RoundConfig) -> RoundUpdates:
    """Train the clients of a round, and return their updates."""
    trainer = backend.trainer
    tasks = [
        ClientTask(client, factor, state.client_states.get(client, {}))
        for client, factor in zip(config.clients, config.factors, strict=True)
    ]
    costs = [trainer.estimate_steps(client, config.round) for client in config.clients]
    accumulator = UpdateAccumulator(config)
    batched = config.batch_clients and trainer.can_batch_clients
    chunks = cut_chunks(tasks, costs, batched, len(config.parameters))
    for position, result in backend.train(config, chunks):
        apply_failure_policy(trainer.policy, result.failures)
        accumulator.add(position, result)
    return accumulator.finish()


def apply_failure_policy(policy: FailurePolicy, failures: list[Failure]) -> None:
    """Raise at the failure of a client, if the policy is to raise.

    Raises:
        RunFailedError: With the round, the client and the cause.
    """
    of_clients = [failure for failure in failures if failure.client != NO_CLIENT]
    if of_clients and policy.on_failure == "raise":
        first = of_clients[0]
        raise RunFailedError(f"round {first.round}, client {first.client}: {first.cause}")


def check_failures(federation: Federation, round_num: int, round_updates: RoundUpdates) -> None:
    """Raise if there are too few updates, or at a failure, if the policy is to raise.

    Raises:
        RunFailedError: With the round and the cause.
    """
    policy, failures = federation.experiment.failures, round_updates.failures
    apply_failure_policy(policy, failures)
    if len(round_updates.updates) < policy.min_updates:
        cause = f"; client {failures[-1].client}: {failures[-1].cause}" if failures else ""
        raise RunFailedError(
            f"round {round_num}: {len(round_updates.updates)} valid updates, "
            f"failures.min_updates is {policy.min_updates}{cause}"
        )


def can_be_empty(federation: Federation) -> bool:
    """Return whether a round without clients is valid, as in Poisson sampling."""
    return federation.experiment.participation.sampling == "poisson"


def build_context(
    federation: Federation, backend: Backend, config: RoundConfig, round_updates: RoundUpdates
) -> RoundContext:
    """Return the context of the updates, with the vectors that clients sent beside them.

    Raises:
        RunFailedError: If the server's own update is not finite.
    """
    clients, owners = round_updates.clients.tolist(), federation.shards.owners
    context = _expected_context(federation, backend, config.round, clients)
    trained = torch.tensor([len(owners[client]) > 0 for client in clients], dtype=torch.bool)
    updates = [update for update in round_updates.updates if len(owners[update.client])]
    losses = torch.tensor([update.loss for update in updates], dtype=torch.float64)
    names = list(updates[0].sent) if updates else []  # checked: the same for all
    sent = {name: torch.stack([update.sent[name] for update in updates]) for name in names}
    return replace(
        context,
        losses=_fill_missing(losses, trained),
        sent={name: _fill_missing(rows, trained) for name, rows in sent.items()},
        reference=compute_server_update(federation, backend, config),
        parameters=config.parameters,
        low_rank=list_low_rank_places(backend.trainer.model),
        shapes=parameters.parameter_shapes(federation.model),
    )


def compute_server_update(
    federation: Federation, backend: Backend, config: RoundConfig
) -> Float[Tensor, " p"] | None:
    """Return the server's own update on its root images; None if the rule uses none.

    Raises:
        RunFailedError: If it is not finite.
    """
    if federation.root is None:
        return None
    task, client = ClientTask(SERVER), federation.experiment.client
    update, _ = backend.trainer.train_client(config, task, client, federation.root)
    if update.delta is not None and not is_finite(update.delta):
        raise RunFailedError(f"round {config.round}: the server's own update is not finite")
    return None if update.delta is None else update.delta.cpu()


def find_clients_without_data(federation: Federation) -> frozenset[int]:
    """Return the clients that have nothing to train on, hence report no metrics."""
    owners = federation.shards.owners
    return frozenset(client for client, rows in enumerate(owners) if not len(rows))


def _fill_missing(
    values: Shaped[Tensor, "m ..."], trained: Bool[Tensor, " n"]
) -> Shaped[Tensor, "n ..."]:
    """Return one row per client: the values of those that trained, else the mean of these."""
    if bool(trained.all()):
        return values
    mean = values.mean(0) if len(values) else values.new_full(values.shape[1:], torch.nan)
    filled = mean.expand(len(trained), *mean.shape).clone()
    filled[trained] = values
    return filled


def make_retrainer(state: State, backend: Backend, config: RoundConfig) -> Retrainer:
    """Return a function that trains clients of the round again, as another client would."""

    def retrain(behaviour: Client, clients: list[int]) -> Float[Tensor, "m p"]:
        rows = []
        for client in clients:
            task = ClientTask(client, state=state.client_states.get(client, {}))
            shard = backend.trainer.shards.shard(client, config.round)
            update, _ = backend.trainer.train_client(config, task, behaviour, shard)
            rows.append(update.delta)
        return move(torch.stack([row for row in rows if row is not None]), new_tensors_device())

    return retrain


def change_base(buffers: Tensors, result: AggregationResult | None) -> Tensors:
    """Return the frozen weights after the changes that a rule makes to them, by name."""
    changes = {} if result is None else result.base
    return {name: buffers[name] + change.to(buffers[name]) for name, change in changes.items()}


def average_buffers(round_updates: list[Update]) -> Tensors:
    """Return the mean of the buffers by shard size, in float64; counters are copied."""
    if not round_updates or not round_updates[0].buffers:
        return {}
    sizes = torch.tensor([update.num_examples for update in round_updates], dtype=torch.float64)
    merged = {}
    for name, first in round_updates[0].buffers.items():
        if first.is_floating_point():
            stack = torch.stack([update.buffers[name].reshape(-1) for update in round_updates])
            merged[name] = weighted_sum(sizes / sizes.sum(), stack).to(first.dtype).view_as(first)
        else:
            merged[name] = first
    return merged
