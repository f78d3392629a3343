"""Accumulation of updates: independent of the order of arrival, equal for sums and stacks."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_sim.contracts import Failure, RoundContext, Update
from fl_sim.core.seeding import generator
from fl_sim.rounds.accumulator import RoundUpdates, UpdateAccumulator
from fl_sim.rounds.server import RuleServer
from fl_sim.training.tasks import (
    MAX_BATCHED_CLIENTS,
    ClientTask,
    RoundConfig,
    cut_chunks,
    finish_chunk,
)
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM

SIZE = 23


def update_of(client: int, seed: int) -> Update:
    delta = torch.randn(SIZE, generator=generator(seed, "delta", client))
    norm = float(delta.norm())
    return Update(client, delta, {}, 10 + client, {}, norm=norm)


def collected(
    config: RoundConfig, count: int, lost: set[int], arrival: list[int], seed: int
) -> RoundUpdates:
    """Return the updates of `count` clients whose chunks arrive in the order given."""
    tasks = [ClientTask(client, 1.0 / (1 + client)) for client in range(count)]
    chunks = cut_chunks(tasks, [float(client % 3) for client in range(count)], batched=True)
    accumulator = UpdateAccumulator(dataclasses.replace(config, clients=list(range(count))))
    for position in sorted(range(len(chunks)), key=lambda p: arrival[p % len(arrival)]):
        chunk = chunks[position]
        present = [t.client for t in chunk if t.client not in lost]
        own = [update_of(client, seed) for client in present]
        failed = [Failure(1, t.client, "lost") for t in chunk if t.client in lost]
        accumulator.add(position, finish_chunk(chunk, own, failed, config.sum_updates))
    return accumulator.finish()


@given(
    st.integers(1, 60),
    st.sets(st.integers(0, 59)),
    st.permutations(range(8)),
    st.booleans(),
)
def test_any_order_of_arrival_gives_the_same_bits(
    count: int, lost: set[int], arrival: list[int], adds_up: bool
) -> None:
    config = RoundConfig(1, torch.zeros(SIZE), {}, sum_updates=adds_up)
    lost = {client for client in lost if client < count}
    one = collected(config, count, lost, arrival, seed=count)
    other = collected(config, count, lost, list(range(8)), seed=count)
    assert [u.client for u in one.updates] == sorted(set(range(count)) - lost)
    assert [f.client for f in one.failures] == sorted(lost)
    if adds_up:
        assert one.total is not None
        assert other.total is not None
        assert one.deltas is None
        assert torch.equal(one.total, other.total)
    else:
        assert one.deltas is not None
        assert other.deltas is not None
        assert torch.equal(one.deltas, other.deltas)
        wanted = [update_of(u.client, count).delta for u in one.updates]
        assert all(torch.equal(row, own) for row, own in zip(one.deltas, wanted, strict=True))


@pytest.mark.parametrize("rule", [FedAvg(), FedAvgM()])
@given(count=st.integers(2, 50), lost=st.sets(st.integers(1, 49)))
def test_streaming_gives_what_stacking_gives(rule: object, count: int, lost: set[int]) -> None:
    lost = {client for client in lost if client < count}
    steps = []
    for adds_up in (True, False):
        server = RuleServer(rule, SIZE)  # type: ignore[arg-type]
        config = RoundConfig(1, torch.zeros(SIZE), {}, sum_updates=adds_up)
        weights = torch.arange(10, 10 + count, dtype=torch.float64)
        plan = server.plan(config, RoundContext.anonymous(count), weights)
        tasks = [ClientTask(c, f) for c, f in zip(plan.clients, plan.factors, strict=True)]
        chunks = cut_chunks(tasks, [1.0] * count, batched=False)
        accumulator = UpdateAccumulator(plan)
        for position, chunk in enumerate(chunks):
            own = [update_of(t.client, 1) for t in chunk if t.client not in lost]
            accumulator.add(position, finish_chunk(chunk, own, [], plan.sum_updates))
        there = accumulator.finish()
        context = RoundContext.anonymous(len(there.updates))
        step, _ = server.advance(plan, there, context)
        steps.append(step)
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-6, atol=1e-6)


@given(st.lists(st.integers(0, 9), max_size=200), st.booleans())
def test_a_cut_holds_each_client_once_and_does_not_depend_on_the_order_asked(
    costs: list[int], batched: bool
) -> None:
    tasks = [ClientTask(client) for client in range(len(costs))]
    chunks = cut_chunks(tasks, [float(cost) for cost in costs], batched)
    clients = [task.client for chunk in chunks for task in chunk]
    assert sorted(clients) == list(range(len(costs)))
    assert all(len(chunk) <= max(MAX_BATCHED_CLIENTS, 32) for chunk in chunks)
    back = [dataclasses.replace(task) for task in reversed(tasks)]
    again = cut_chunks(back, [float(cost) for cost in reversed(costs)], batched)
    assert [[t.client for t in c] for c in again] == [[t.client for t in c] for c in chunks]
