"""Sums do not depend on who was first, and streaming gives what stacking gives."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_sim.contracts import Failure, Senders, Update
from fl_sim.engine.orders import MAX_COHORT, Order, Task, cut, settled
from fl_sim.engine.pile import Collected, Pile
from fl_sim.engine.server import RuleServer
from fl_sim.seeding import generator
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM

SIZE = 23


def update_of(client: int, seed: int) -> Update:
    delta = torch.randn(SIZE, generator=generator(seed, "delta", client))
    norm = float(delta.norm())
    return Update(client, delta, {}, 10 + client, {}, norm=norm)


def collected(order: Order, count: int, lost: set[int], arrival: list[int], seed: int) -> Collected:
    """Return what a pile makes of `count` clients whose chunks arrive in the order given."""
    tasks = [Task(client, 1.0 / (1 + client)) for client in range(count)]
    chunks = cut(tasks, [float(client % 3) for client in range(count)], cohort=True)
    pile = Pile(order, list(range(count)))
    for position in sorted(range(len(chunks)), key=lambda p: arrival[p % len(arrival)]):
        chunk = chunks[position]
        present = [t.client for t in chunk if t.client not in lost]
        own = [update_of(client, seed) for client in present]
        failed = [Failure(1, t.client, "lost") for t in chunk if t.client in lost]
        pile.add(position, settled(chunk, own, failed, order.adds_up))
    return pile.collected()


@given(
    st.integers(1, 60),
    st.sets(st.integers(0, 59)),
    st.permutations(range(8)),
    st.booleans(),
)
def test_any_order_of_arrival_gives_the_same_bits(
    count: int, lost: set[int], arrival: list[int], adds_up: bool
) -> None:
    order = Order(1, torch.zeros(SIZE), {}, adds_up=adds_up)
    lost = {client for client in lost if client < count}
    one = collected(order, count, lost, arrival, seed=count)
    other = collected(order, count, lost, list(range(8)), seed=count)
    assert [u.client for u in one.updates] == sorted(set(range(count)) - lost)
    assert [f.client for f in one.failures] == sorted(lost)
    if adds_up:
        assert one.total is not None
        assert other.total is not None
        assert one.rows is None
        assert torch.equal(one.total, other.total)
    else:
        assert one.rows is not None
        assert other.rows is not None
        assert torch.equal(one.rows, other.rows)
        wanted = [update_of(u.client, count).delta for u in one.updates]
        assert all(torch.equal(row, own) for row, own in zip(one.rows, wanted, strict=True))


@pytest.mark.parametrize("rule", [FedAvg(), FedAvgM()])
@given(count=st.integers(2, 50), lost=st.sets(st.integers(1, 49)))
def test_streaming_gives_what_stacking_gives(rule: object, count: int, lost: set[int]) -> None:
    lost = {client for client in lost if client < count}
    steps = []
    for adds_up in (True, False):
        server = RuleServer(rule, SIZE)  # type: ignore[arg-type]
        order = Order(1, torch.zeros(SIZE), {}, adds_up=adds_up)
        weights = torch.arange(10, 10 + count, dtype=torch.float64)
        plan = server.plan(order, Senders.anonymous(count), weights)
        tasks = [Task(c, f) for c, f in zip(plan.clients, plan.factors, strict=True)]
        chunks, pile = cut(tasks, [1.0] * count, cohort=False), Pile(plan.order, plan.clients)
        for position, chunk in enumerate(chunks):
            own = [update_of(t.client, 1) for t in chunk if t.client not in lost]
            pile.add(position, settled(chunk, own, [], plan.order.adds_up))
        there = pile.collected()
        senders = Senders.anonymous(len(there.updates))
        step, _ = server.advance(plan, there, senders)
        steps.append(step)
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-6, atol=1e-6)


@given(st.lists(st.integers(0, 9), max_size=200), st.booleans())
def test_a_cut_holds_each_client_once_and_does_not_depend_on_the_order_asked(
    costs: list[int], cohort: bool
) -> None:
    tasks = [Task(client) for client in range(len(costs))]
    chunks = cut(tasks, [float(cost) for cost in costs], cohort)
    clients = [task.client for chunk in chunks for task in chunk]
    assert sorted(clients) == list(range(len(costs)))
    assert all(len(chunk) <= max(MAX_COHORT, 32) for chunk in chunks)
    back = [dataclasses.replace(task) for task in reversed(tasks)]
    again = cut(back, [float(cost) for cost in reversed(costs)], cohort)
    assert [[t.client for t in c] for c in again] == [[t.client for t in c] for c in chunks]
