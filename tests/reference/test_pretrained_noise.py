"""BAIT and SSC: their definitions on digits, and their effect on a frozen foundation model."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clients.sgd import SgdClient
from fl_sim.contracts import Dataset, Protection, Shard
from fl_sim.core.errors import FieldError
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator
from fl_sim.data.sources import MissingDataError, load_subset
from fl_sim.experiment import Model
from fl_sim.models.surrogate import BatchCycle, Surrogate
from fl_sim.models.tuning import build_network
from fl_sim.protections._shared.alternating_optimization import AlternatingNoise
from fl_sim.protections.bait import Bait
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.protections.semantic_camouflage import (
    SemanticCamouflage,
    find_targets,
    make_channel_loss,
    measure_channels,
)
from fl_sim.rounds.measure import compute_logits

RADIUS = 16 / 255


def test_bait_lowers_the_loss_of_another_class(digits: Dataset) -> None:
    """With a surrogate that hardly moves, so that it is the same network before and after."""
    images, labels = digits.train_images[:50], digits.train_labels[:50]
    bait = Bait(RADIUS, surrogate=Model(), shift=3, max_passes=2, learning_rate=1e-9)
    protected = bait.protect(images, labels, torch.arange(50), 0)
    network, wrong = Surrogate(Model(), (1, 8, 8), 10, 0, 0.0).model, (labels + 3) % 10
    before, after = (
        functional.cross_entropy(network(as_pixels(x)), wrong, reduction="none")
        for x in (images, protected)
    )
    assert bool((after < before).all())


def test_targets_move_the_noise_and_labels_train_the_surrogate(digits: Dataset) -> None:
    images, labels = as_pixels(digits.train_images[:40]), digits.train_labels[:40]
    seen: dict[str, list[Tensor]] = {"steps": [], "losses": []}

    class Recorder(Surrogate):
        def step(self, images: Tensor, labels: Tensor) -> None:
            seen["steps"].append(labels)

        def make_loss(self, labels: Tensor):  # type: ignore[no-untyped-def]
            seen["losses"].append(labels)
            return super().make_loss(labels)

    rng, targets = generator(0, "order"), (labels + 1) % 10
    surrogate = Recorder(Model(), (1, 8, 8), 10, 0, 0.1)
    batches = BatchCycle(40, 40, rng)
    made = AlternatingNoise(
        surrogate, images, labels, 40, 1, rng, lambda loss, x, n: n, bool, batches, 2, targets
    )
    made.make_sample_wise()
    assert [sorted(s.tolist()) for s in seen["steps"]] == [sorted(labels.tolist())] * 2
    assert torch.equal(seen["losses"][0], targets)


def test_a_target_that_is_the_class_itself_is_refused(digits: Dataset) -> None:
    images, labels = digits.train_images[:20], digits.train_labels[:20]
    for protection in (Bait(shift=10), SemanticCamouflage(shift=20)):
        with pytest.raises(FieldError, match="shift: no multiple of 10"):
            protection.protect(images, labels, torch.arange(20), 0)


def test_targets_are_the_mean_channels_of_the_wanted_class() -> None:
    channels = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [9.0, 9.0]])
    labels = torch.tensor([0, 1, 1, 2])
    found = find_targets(channels, labels, torch.tensor([1, 2, 2, 3]))
    # No image is of class 3: the mean of all images that are not of class 2.
    expected = torch.tensor([[3.0, 4.0], [9.0, 9.0], [9.0, 9.0], [2.0, 3.0]])
    assert torch.equal(found, expected)


def test_channels_are_means_of_feature_maps_at_each_level() -> None:
    first, second = nn.Conv2d(1, 3, 3), nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
    images = torch.rand(4, 1, 8, 8, generator=generator(0, "images"))
    seen = measure_channels([first, second], images)
    maps = first(images)
    assert torch.equal(seen, torch.cat([maps.mean((2, 3)), second(maps)], 1))
    targets, deviation = torch.zeros_like(seen), torch.full(seen.shape[1:], 2.0)
    loss = make_channel_loss([first, second], targets, deviation)(images)
    assert float(loss) == pytest.approx(float((seen / 2).square().sum()), rel=1e-5)


def test_ssc_moves_channels_towards_the_other_class(digits: Dataset) -> None:
    images, labels = digits.train_images, digits.train_labels
    ssc = SemanticCamouflage(RADIUS, Model())
    protected = ssc.protect(images, labels, torch.arange(120), 0)
    front = build_network(replace(Model(), tune="head"), (1, 8, 8), 10, 0).frozen
    with torch.no_grad():
        before = measure_channels([front], as_pixels(images))
        after = measure_channels([front], as_pixels(protected))
    targets, deviation = find_targets(before, labels, (labels + 1) % 10), before.std(0)
    used = deviation > 1e-6
    distance = [
        ((x - targets) / deviation)[:, used].square().mean(1).sqrt() for x in (before, after)
    ]
    assert bool((distance[1] < distance[0]).all())


@pytest.mark.slow
def test_both_protect_from_a_frozen_foundation_model_and_random_noise_does_not() -> None:
    """300 images of Fashion-MNIST, all protected at 8/255; chance level 0.1."""
    try:
        data = load_subset("fashion_mnist", None, 300, 500)
    except MissingDataError as error:
        pytest.skip(str(error))
    quick = {"noise_steps": 5, "step_size": 2 / 255}
    bait = Bait(max_passes=3, batch_size=50, learning_rate=0.01, **quick)  # type: ignore[arg-type]
    made = (RandomNoise(), bait, SemanticCamouflage(**quick))  # type: ignore[arg-type]
    plain, *protected = (train_head(data, protection) for protection in made)
    assert plain > 0.6
    assert max(protected) < plain - 0.2


def train_head(data: Dataset, protection: Protection) -> float:
    """Return the accuracy of a head that was trained on protected images."""
    ids = torch.arange(len(data.train_labels))
    images = protection.protect(data.train_images, data.train_labels, ids, 0)
    network = build_network(Model("efficientnet_lite0", "pretrained", "head"), (1, 28, 28), 10, 0)
    train, test = (compute_features(network.frozen, i) for i in (images, data.test_images))
    shard = Shard(0, train, data.train_labels, ids, 10)
    SgdClient(0.02, local_epochs=10).train(network.trained, shard, generator(0, "head"))
    guesses = compute_logits(network.trained, test).argmax(1)
    return float((guesses == data.test_labels).double().mean())


@torch.no_grad()
def compute_features(frozen: nn.Module, images: Tensor) -> Tensor:
    """Return the output of the frozen front."""
    return torch.cat([frozen(as_pixels(batch)) for batch in images.split(64)])
