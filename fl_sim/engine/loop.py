"""THE loop: one round of Flower's protocol after another, in plain sight."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter

import torch
from flwr.app import ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Failure, Row, Update
from fl_sim.engine.compat import seeded_globals
from fl_sim.engine.exchange import Exchange, Roll, as_replies
from fl_sim.engine.federation import Federation
from fl_sim.engine.measure import measure
from fl_sim.engine.wire import from_record, to_record
from fl_sim.models import parameters
from fl_sim.seeding import generator
from fl_sim.sums import weighted_sum


@dataclass
class State:
    """Where a run stands after a round: all that a checkpoint has to keep."""

    round: int
    parameters: Float[Tensor, " p"]
    buffers: dict[str, Tensor]
    strategy: Strategy
    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def initial_state(federation: Federation, strategy: Strategy) -> State:
    """Return the state before the first round."""
    return State(0, federation.start, federation.start_buffers, strategy)


def rounds(federation: Federation, state: State, grid: Grid) -> Iterator[State]:
    """Run the rounds that are left, yielding the state after each.

    Raises:
        RunFailedError: where the failure policy ends the run.
    """
    experiment, shapes = federation.experiment, parameters.shapes(federation.model)
    exchange = Exchange(
        grid, experiment.to_json(), shapes, federation.shard_sizes(), experiment.failures
    )
    for number in range(state.round + 1, experiment.rounds + 1):
        started = perf_counter()
        clients = chosen_clients(federation, number)
        with seeded_globals(experiment.seed, "strategy", number):
            instructions = list(
                state.strategy.configure_train(
                    number, to_record(state.parameters, shapes), ConfigRecord(), Roll(clients)
                )
            )
            updates, failures = exchange.updates(number, instructions, state.buffers)
            replies = as_replies(updates, instructions, shapes)
            arrays, _ = state.strategy.aggregate_train(number, replies)
        if arrays is not None:
            state.parameters = from_record(arrays, shapes)
        state.buffers = mean_buffers(updates) or state.buffers
        state.round = number
        state.failures += failures
        state.rows += measure(federation, state, updates, failures, perf_counter() - started)
        yield state


def chosen_clients(federation: Federation, number: int) -> list[int]:
    """Return who trains in round `number`: clients with data, drawn by the run's seed."""
    able = [client for client, size in enumerate(federation.shard_sizes()) if size]
    rng = generator(federation.experiment.seed, "round", number, "participation")
    order = torch.randperm(len(able), generator=rng)
    wanted = federation.experiment.clients_per_round
    return sorted(able[i] for i in order[:wanted].tolist())


def mean_buffers(updates: list[Update]) -> dict[str, Tensor]:
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
