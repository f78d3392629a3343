"""Groups of clients: assignment, and the gaps between them."""

import math
from collections.abc import Callable

import pytest
import torch

from fl_sim.contracts import RoundRecord, Row
from fl_sim.metrics._shared.groups import assign_group, gap_rows, group_gap, group_mean
from fl_sim.metrics.accuracy import Accuracy, client_accuracies, client_groups
from fl_sim.metrics.fairness import Fairness, statistics

Maker = Callable[..., RoundRecord]
VALUES = torch.tensor([0.9, 0.7, 0.5, 0.2])
GROUPS = ["clean", "clean", "protected", "attacker"]


@pytest.fixture
def record(observation: Maker) -> RoundRecord:
    """Client 0 protects everything, 1 nothing, 2 half, and 3 attacks; 0 to 4 are known."""
    return observation(
        test_logits=torch.eye(10).repeat(3, 1) * torch.tensor([1.0] * 20 + [-1.0] * 10)[:, None],
        class_counts=torch.tensor([[8] * 5 + [0] * 5, [0] * 5 + [8] * 5, [4] * 10, [8] + [0] * 9]),
        protected_counts=torch.tensor([40, 0, 20, 8]),
        attackers=frozenset({3}),
    )


def test_who_attacks_is_an_attacker_whatever_it_protects(record: RoundRecord) -> None:
    assert client_groups(record) == ["protected", "clean", "mixed", "attacker"]
    assert [assign_group(share, False) for share in (0.0, 0.25, 0.75, 0.76)] == [
        "clean",
        "mixed",
        "mixed",
        "protected",
    ]


def test_a_groups_mean_is_over_its_clients() -> None:
    assert group_mean(VALUES, GROUPS, ["clean"]) == pytest.approx(0.8)
    assert group_mean(VALUES, GROUPS, ["clean", "protected"]) == pytest.approx(0.7)
    assert math.isnan(group_mean(VALUES, GROUPS, ["mixed"]))


def test_a_gap_is_the_first_group_minus_the_second() -> None:
    assert group_gap(VALUES, GROUPS, ["protected"], ["clean"]) == pytest.approx(-0.3)
    assert math.isnan(group_gap(VALUES, GROUPS, ["protected"], ["mixed"]))


def test_gaps_without_both_groups_are_not_to_be_read() -> None:
    rows = {row.metric: row for row in gap_rows(1, "x", VALUES, ["attacker"] * 4)}
    assert set(rows) == {"x_protected_gap", "x_attacker_gap"}
    assert all(math.isnan(row.value) and not row.valid and row.note for row in rows.values())
    assert [row.metric for row in gap_rows(1, "x", VALUES, ["clean"] * 4)] == ["x_protected_gap"]


def named(rows: list[Row]) -> dict[tuple[str, str], float]:
    return {(row.metric, row.group): row.value for row in rows}


def test_fairness_is_also_reported_over_honest_clients(record: RoundRecord) -> None:
    accuracies = client_accuracies(record)
    numbers = named(list(Fairness().rows(record)))
    for name, value in statistics(accuracies).items():
        assert numbers[f"fairness_{name}", "all"] == value
    for name, value in statistics(accuracies[:3]).items():
        assert numbers[f"fairness_{name}", "honest"] == value
    for client, group in enumerate(client_groups(record)):
        assert numbers["fairness_mean", group] == pytest.approx(float(accuracies[client]))
    gap = float(accuracies[3] - accuracies[:3].mean())
    assert numbers["fairness_attacker_gap", "all"] == pytest.approx(gap)


def test_without_attackers_honest_clients_are_all_clients(observation: Maker) -> None:
    groups = {row.group for row in Fairness().rows(observation())}
    assert groups == {"all", "mixed"}


def test_a_client_without_records_is_not_the_worst_served(observation: Maker) -> None:
    counts = torch.tensor([[8] * 10, [0] * 10])
    right = 50 * torch.eye(10).repeat(3, 1)
    record = observation(
        test_logits=right, class_counts=counts, protected_counts=torch.zeros(2).long()
    )
    numbers = named(list(Fairness().rows(record)))
    assert numbers["fairness_worst_client", "all"] == pytest.approx(1)
    rows = [row for row in Accuracy().rows(record) if row.metric == "client_accuracy"]
    assert [row.valid for row in rows] == [True, False]
    assert rows[1].note
