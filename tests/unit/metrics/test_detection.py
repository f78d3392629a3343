"""Telling protecting clients from clean ones by loss and length."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fl_sim.contracts import RoundRecord, Row, Update
from fl_sim.metrics.detection import Detection


@pytest.fixture
def round_of(observation: Callable[..., RoundRecord]) -> Callable[..., dict[str, Row]]:
    def make(losses: list[float], norms: list[float], protected: list[int]) -> dict[str, Row]:
        updates = tuple(
            Update(i, torch.zeros(1), {}, 10, {"train_loss": loss}, norm)
            for i, (loss, norm) in enumerate(zip(losses, norms, strict=True))
        )
        count = len(losses)
        record = replace(
            observation(),
            updates=updates,
            class_counts=torch.ones((count, 10), dtype=torch.int64),
            protected_counts=torch.tensor(protected),
            attackers=frozenset(),
        )
        return {row.group: row for row in Detection().rows(record)}

    return make


def test_a_low_loss_and_a_short_update_are_suspicious(
    round_of: Callable[..., dict[str, Row]],
) -> None:
    rows = round_of([0.1, 0.2, 0.9, 0.8], [3.0, 1.0, 2.0, 4.0], [10, 10, 0, 0])
    assert rows["train_loss"].value == 1.0
    assert rows["update_norm"].value == 0.75


def test_mixed_clients_are_left_out(round_of: Callable[..., dict[str, Row]]) -> None:
    rows = round_of([0.1, 0.0, 0.9], [1.0, 9.0, 2.0], [10, 5, 0])
    assert rows["train_loss"].value == rows["update_norm"].value == 1.0


@pytest.mark.parametrize("protected", [[0, 0], [10, 10], [5, 5]])
def test_nothing_can_be_told_where_all_are_alike(
    round_of: Callable[..., dict[str, Row]], protected: list[int]
) -> None:
    assert not any(row.valid for row in round_of([0.1, 0.2], [1.0, 1.0], protected).values())


def test_a_kind_that_did_not_deliver_is_a_note(round_of: Callable[..., dict[str, Row]]) -> None:
    rows = round_of([float("nan"), 0.2], [1.0, 1.0], [10, 0])
    assert not rows["train_loss"].valid
    assert rows["update_norm"].valid
