"""Accuracy per client, by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fl_sim.contracts import RoundRecord
from fl_sim.metrics.accuracy import (
    Accuracy,
    class_accuracies,
    class_means,
    class_shares,
    client_accuracies,
    client_groups,
    protected_shares,
)
from fl_sim.metrics.fairness import Fairness

Maker = Callable[..., RoundRecord]
COUNTS = torch.tensor([[8, 2, 0], [0, 0, 5], [0, 0, 0], [1, 1, 2]])


@pytest.fixture
def record(observation: Maker) -> RoundRecord:
    """Four clients, three classes; of the test images, class by class, 1/2, 2/3, 0 are right."""
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    answers = torch.tensor([0, 1, 1, 1, 0, 0])
    return observation(
        test_logits=torch.nn.functional.one_hot(answers, 3).float(),
        test_labels=labels,
        pool_logits=torch.zeros(160, 3),
        class_counts=COUNTS,
        protected_counts=torch.tensor([10, 1, 0, 2]),
    )


def test_class_means_are_means_over_each_class() -> None:
    means = class_means(torch.tensor([1.0, 0.0, 0.5]), torch.tensor([0, 0, 2]), 4)
    assert means[[0, 2]].tolist() == [0.5, 0.5]
    assert means[[1, 3]].isnan().all()


def test_class_shares_add_up(record: RoundRecord) -> None:
    expected = [[0.8, 0.2, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.25, 0.25, 0.5]]
    assert class_shares(record).tolist() == expected


def test_a_clients_accuracy_is_that_on_its_own_mix(record: RoundRecord) -> None:
    expected = [0.8 / 2 + 0.2 * 2 / 3, 0.0, torch.nan, 0.25 / 2 + 0.25 * 2 / 3]
    assert client_accuracies(record).tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.fixture
def untested(record: RoundRecord) -> RoundRecord:
    """The same without a test image of class 2; two clients have models of their own."""
    kept = record.test_labels != 2
    own = torch.tensor([1.0, 0.5, torch.nan], dtype=torch.float64)
    return replace(
        record,
        test_logits=record.test_logits[kept],
        test_labels=record.test_labels[kept],
        personal={0: own, 1: own},
        triggered=None,
    )


@pytest.mark.parametrize("metric", ["client_accuracy", "personal_accuracy"])
def test_a_client_of_a_class_without_a_test_image_has_no_accuracy(
    untested: RoundRecord, metric: str
) -> None:
    rows = {row.client: row for row in Accuracy().rows(untested) if row.metric == metric}
    assert rows[0].valid
    assert math.isnan(rows[1].value)
    assert (rows[1].valid, rows[1].note) == (False, "no test image of its classes")
    if metric == "client_accuracy":
        assert math.isnan(rows[3].value)
        assert (rows[3].valid, rows[3].note) == (False, "no test image of 1 of its 3 classes")


def test_statistics_leave_a_client_without_an_accuracy_out(untested: RoundRecord) -> None:
    rows = {row.metric: row for row in Fairness().rows(untested) if row.group == "all"}
    only = 0.8 / 2 + 0.2 * 2 / 3
    for name in ("worst_client", "mean", "best_10_percent", "worst_10_percent"):
        row = rows[f"fairness_{name}"]
        assert row.value == pytest.approx(only)
        assert (row.valid, row.note) == (True, "2 of 3 clients left out: not defined")
    assert rows["fairness_jain"].value == 1.0
    assert not rows["fairness_protected_gap"].valid


def test_statistics_of_nobody_are_no_numbers(untested: RoundRecord) -> None:
    nobody = replace(untested, class_counts=torch.tensor([[0, 0, 3]] * 4))
    rows = list(Fairness().rows(nobody))
    assert all(math.isnan(row.value) and not row.valid and row.note for row in rows)


def test_a_personal_model_that_diverged_has_no_accuracy() -> None:
    logits = torch.eye(3)
    assert class_accuracies(logits, torch.arange(3)).tolist() == [1.0, 1.0, 1.0]
    logits[1, 1] = torch.inf
    assert class_accuracies(logits, torch.arange(3)).isnan().all()


def test_the_accuracy_of_all_is_over_images(record: RoundRecord) -> None:
    rows = {row.metric: row for row in Accuracy().rows(record) if row.client == -1}
    assert rows["accuracy"].value == 0.5
    assert rows["accuracy"].low == pytest.approx(0.1181, abs=1e-4)  # 3 of 6, Clopper-Pearson
    assert rows["accuracy"].high == pytest.approx(0.8819, abs=1e-4)


def test_shares_and_groups_go_by_what_clients_hold(record: RoundRecord) -> None:
    assert protected_shares(record).tolist() == [1.0, 0.2, 0.0, 0.5]
    assert client_groups(record) == ["protected", "clean", "clean", "mixed"]


def test_a_clients_row_says_its_group(record: RoundRecord) -> None:
    rows = [row for row in Accuracy().rows(record) if row.metric == "client_accuracy"]
    assert [(row.client, row.group) for row in rows] == list(enumerate(client_groups(record)))


def test_the_protected_gap_is_protected_minus_clean(record: RoundRecord) -> None:
    (gap,) = [r for r in Fairness().rows(record) if r.metric == "fairness_protected_gap"]
    own = client_accuracies(record)
    assert gap.valid
    assert gap.value == pytest.approx(float(own[0] - own[1]), abs=1e-12)


def test_a_gap_without_both_groups_is_not_to_be_read(observation: Maker) -> None:
    half = observation()
    (gap,) = [r for r in Fairness().rows(half) if r.metric == "fairness_protected_gap"]
    assert not gap.valid
    assert gap.note
