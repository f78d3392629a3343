"""Attack success rate: at chance, at perfection, and where it is not defined."""

from collections.abc import Callable

import pytest
import torch

from fl_sim.contracts import RoundRecord, Row, Triggered
from fl_sim.metrics.backdoor import BackdoorSuccess

Maker = Callable[..., RoundRecord]


def rows(record: RoundRecord) -> dict[str, Row]:
    return {row.metric: row for row in BackdoorSuccess().rows(record)}


def test_a_perfect_backdoor_shows_only_on_stamped_images(observation: Maker) -> None:
    labels = torch.arange(10).repeat(3)
    right = torch.eye(10)[labels]
    fooled = torch.eye(10)[torch.full((30,), 7)]
    found = rows(observation(test_logits=right, triggered=Triggered(fooled, 7)))
    assert found["attack_success"].value == 1
    assert found["attack_success_untriggered"].value == 0


def test_images_of_the_target_class_do_not_count(observation: Maker) -> None:
    labels = torch.arange(10).repeat(3)
    right = torch.eye(10)[labels]
    right[1] = torch.eye(10)[7]  # one image of class 1 is taken for the target
    found = rows(observation(triggered=Triggered(right, 7)))["attack_success"]
    assert found.value == pytest.approx(1 / 27)
    assert found.low <= found.value <= found.high


def test_without_a_backdoor_there_is_nothing_to_say(observation: Maker) -> None:
    assert rows(observation(triggered=None)) == {}


def test_a_rate_over_no_image_is_marked(observation: Maker) -> None:
    seven = torch.full((30,), 7)
    record = observation(test_labels=seven, triggered=Triggered(torch.zeros(30, 10), 7))
    found = rows(record)["attack_success"]
    assert not found.valid
    assert found.note == "every test image is of the target class"
