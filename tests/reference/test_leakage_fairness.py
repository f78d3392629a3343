"""Leakage per client against its definition, and against chance."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from fl_sim.contracts import RoundRecord
from fl_sim.core.seeding import generator
from fl_sim.metrics._shared.intervals import auc_with_interval
from fl_sim.metrics.leakage import Leakage, margin_score
from fl_sim.metrics.leakage_fairness import LeakageFairness, client_aucs, excess_spread

Maker = Callable[..., RoundRecord]


@pytest.fixture
def record(observation: Maker) -> RoundRecord:
    return observation(pool_logits=torch.randn(160, 10, generator=generator(0, "pool")))


def test_every_client_has_the_area_of_its_own_records(record: RoundRecord) -> None:
    clients, areas, errors = client_aucs(record)
    assert clients.tolist() == [0, 1, 2, 3]
    score = margin_score(record.pool_logits, record.pool_labels)
    for client, area, error in zip(clients, areas.tolist(), errors.tolist(), strict=True):
        own = record.pool_clients == client
        assert area == pytest.approx(roc_auc_score(record.members[own], score[own]), abs=1e-12)
        inside, outside = score[own & record.members], score[own & ~record.members]
        _, low, high = auc_with_interval(inside, outside)
        assert error == pytest.approx((high - low) / 2 / 1.959964, rel=1e-6)


def test_areas_are_those_of_the_leakage_rows(record: RoundRecord) -> None:
    rows = {r.client: r.value for r in Leakage().rows(record) if r.metric == "mia_margin_auc"}
    _, areas, _ = client_aucs(record)
    assert areas.tolist() == [rows[client] for client in range(4)]


def test_clients_that_cannot_be_audited_are_left_out(record: RoundRecord) -> None:
    kept = (record.pool_clients != 1) & ~((record.pool_clients == 2) & record.members)
    names = ("pool_logits", "pool_labels", "pool_clients", "members", "protected")
    fields = {name: getattr(record, name)[kept] for name in names}
    part = RoundRecord(**(vars(record) | fields))
    assert client_aucs(part)[0].tolist() == [0, 3]


def test_an_interval_that_is_cut_gives_the_error_of_its_whole_side(observation: Maker) -> None:
    record = observation()
    own = torch.where(record.members, 9.0, -9.0)
    own[torch.arange(160) % 40 == 3] = -20  # one member per client below all 20 non-members
    logits = torch.zeros(160, 10).scatter(1, record.pool_labels[:, None], own[:, None])
    _, areas, errors = client_aucs(observation(pool_logits=logits))
    assert areas.tolist() == [pytest.approx(0.95)] * 4
    assert errors.tolist() == [pytest.approx(0.05, abs=1e-6)] * 4  # so the bound was above 1


def test_errors_alone_give_no_excess() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        values = 0.6 + 0.05 * rng.standard_normal(30)
        found.append(excess_spread(torch.from_numpy(values), torch.full((30,), 0.05)))
    assert float(np.median(found)) < 0.012
    assert float(np.std(0.6 + 0.05 * rng.standard_normal(30))) > 0.03


def test_the_excess_is_the_spread_of_the_true_values() -> None:
    rng = np.random.default_rng(1)
    true = 0.6 + 0.1 * rng.standard_normal(4000)
    seen = true + 0.05 * rng.standard_normal(4000)
    assert excess_spread(torch.from_numpy(seen), torch.full((4000,), 0.05)) == pytest.approx(
        0.1, abs=0.004
    )


def test_one_client_has_no_spread() -> None:
    assert excess_spread(torch.tensor([0.9]), torch.tensor([0.1])) == 0


def test_a_client_that_leaks_alone_stands_out(observation: Maker) -> None:
    record = observation(protected_counts=torch.tensor([80, 0, 0, 0]))
    logits = torch.randn(160, 10, generator=generator(0, "pool"))
    leaking = (record.pool_clients == 0) & record.members
    logits[leaking] = 50 * torch.nn.functional.one_hot(record.pool_labels[leaking], 10).float()
    leaky = RoundRecord(**(vars(record) | {"pool_logits": logits}))
    numbers = {(r.metric, r.group): r.value for r in LeakageFairness().rows(leaky)}
    _, areas, _ = client_aucs(leaky)
    assert numbers["fairness_leakage_worst_client", "all"] == 1.0
    assert numbers["fairness_leakage_mean", "protected"] == 1.0
    gap = 1 - float(areas[1:].mean())
    assert numbers["fairness_leakage_protected_gap", "all"] == pytest.approx(gap, abs=1e-12)
    assert numbers["fairness_leakage_excess_spread", "all"] > 0.1


def test_an_even_leak_has_no_excess(observation: Maker) -> None:
    rows = {row.metric: row.value for row in LeakageFairness().rows(observation())}
    assert rows["fairness_leakage_mean"] == pytest.approx(0.5)
    assert rows["fairness_leakage_spread"] == pytest.approx(0)
    assert rows["fairness_leakage_excess_spread"] == 0
