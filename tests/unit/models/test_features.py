"""Features of a frozen front: computed once per image, cached on disk by content."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator
from fl_sim.models.features import BATCH, extract_features, to_trainable


class Counted(nn.Module):
    """Returns mean and maximum of images, and counts the images."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return torch.stack([images.mean((1, 2, 3)), images.amax((1, 2, 3))], 1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FL_SIM_CACHE", str(tmp_path))
    return tmp_path


def images(count: int = 2 * BATCH + 3, seed: int = 0) -> Tensor:
    rng = generator(seed, "images")
    return torch.randint(0, 256, (count, 1, 4, 4), generator=rng, dtype=torch.uint8)


def test_features_are_those_of_the_front_to_half_precision() -> None:
    front = nn.Sequential(Counted())
    expected = front(as_pixels(images()))
    found = extract_features(front, "counted", images())
    assert found.dtype == torch.float16
    assert torch.equal(found, expected.half())


def test_clients_are_given_features_in_single_precision_and_images_as_they_are() -> None:
    half = extract_features(nn.Sequential(Counted()), "counted", images(3))
    assert to_trainable(half).dtype == torch.float32
    assert torch.equal(to_trainable(half), half.float())
    assert to_trainable(images(3)).dtype == torch.uint8


def test_features_of_an_image_are_computed_once() -> None:
    counted = Counted()
    first = extract_features(nn.Sequential(counted), "counted", images())
    again = extract_features(nn.Sequential(counted), "counted", images())
    assert counted.seen == len(images())
    assert torch.equal(first, again)


@pytest.mark.parametrize(("weights", "seed"), [("other", 0), ("counted", 1)])
def test_other_weights_or_images_are_computed_again(weights: str, seed: int) -> None:
    counted = Counted()
    extract_features(nn.Sequential(counted), "counted", images())
    extract_features(nn.Sequential(counted), weights, images(seed=seed))
    assert counted.seen == 2 * len(images())


def test_features_carry_no_gradient() -> None:
    front = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    assert not extract_features(front, "linear", images(3)).requires_grad
