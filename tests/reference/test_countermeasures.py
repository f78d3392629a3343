"""Filters, augmentations and attacks of a trainer against outside and slow definitions."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from clients.sgd import SgdClient, smoothed_cross_entropy
from fl_sim.contracts import Pipeline, Shard
from fl_sim.core.plasma import _refine, draw_plasma
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.countermeasures.adversarial_training import AdversarialTraining
from fl_sim.countermeasures.bit_depth import BitDepth
from fl_sim.countermeasures.crop_flip import CropFlip
from fl_sim.countermeasures.cut_mix import CutMix
from fl_sim.countermeasures.cut_out import CutOut
from fl_sim.countermeasures.grey import Grey
from fl_sim.countermeasures.jpeg import Jpeg
from fl_sim.countermeasures.low_pass import LowPass
from fl_sim.countermeasures.mix_up import MixUp
from fl_sim.countermeasures.orthogonal_projection import OrthogonalProjection
from fl_sim.countermeasures.worst_augmentation import WorstAugmentation

LABELS = torch.arange(8) % 4
SCIPY: dict[str, Any] = {
    "mean": lambda x: ndimage.uniform_filter(x, 3, mode="mirror"),
    "median": lambda x: ndimage.median_filter(x, 3, mode="nearest"),
    "gaussian": lambda x: ndimage.convolve(x, np.outer([1, 2, 1], [1, 2, 1]) / 16, mode="mirror"),
}


@pytest.mark.parametrize("kind", ["mean", "median", "gaussian"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 1), (2, 2)])
def test_filters_take_images_of_one_row_or_column(kind: Any, shape: tuple[int, int]) -> None:
    """The edge is repeated if there is no pixel beside it."""
    image = torch.randint(0, 256, (1, 3, *shape), generator=generator(0, "line")).to(torch.uint8)
    found = LowPass(kind).filter(image, LABELS[:1], generator(0, "filter"))
    for channel in range(3):
        expected = SCIPY[kind](image[0, channel].double().numpy())
        assert np.abs(found[0, channel].numpy() - expected).max() <= 0.5 + 1e-5


def pixels(count: int = 8, channels: int = 3, side: int = 10) -> Tensor:
    shape = (count, channels, side, side)
    return torch.randint(0, 256, shape, generator=generator(0, "pixels"), dtype=torch.uint8)


@pytest.mark.parametrize("kind", ["mean", "median", "gaussian"])
def test_low_pass_filters_are_scipys(kind: Any) -> None:
    images = pixels()
    found = LowPass(kind).filter(images, LABELS, generator(0, "filter"))
    for image, own in zip(images.flatten(0, 1).numpy(), found.flatten(0, 1).numpy(), strict=True):
        expected = SCIPY[kind](image.astype(np.float64))
        # Sums in 32-bit floats may fall on the other side of a half.
        assert np.abs(own - expected).max() <= 0.5 + 1e-4


def test_grey_is_brightness_and_leaves_grey_alone() -> None:
    image = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    rng = generator(0, "filter")
    assert Grey().filter(image, LABELS[:1], rng).flatten().tolist() == [76, 76, 76]
    even = pixels(channels=1)
    assert torch.equal(Grey().filter(even, LABELS, rng), even)


@pytest.mark.parametrize("bits", range(1, 9))
def test_bit_depth_rounds_to_the_nearest_of_its_levels(bits: int) -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    found = BitDepth(bits).filter(images, LABELS[:1], generator(0, "filter")).flatten().tolist()
    top = 2**bits - 1
    levels = [round(level * 255 / top) for level in range(top + 1)]
    assert set(found) == set(levels)
    assert all(abs(own - x) <= 255 / top / 2 + 1 for x, own in enumerate(found))


@pytest.mark.parametrize("bits", range(1, 9))
def test_bit_depth_may_drop_the_low_bits_as_apbench_does(bits: int) -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    found = BitDepth(bits, rounding="down").filter(images, LABELS[:1], generator(0, "filter"))
    expected = [x & (0xFF << (8 - bits)) for x in range(256)]
    assert found.flatten().tolist() == expected


def test_jpeg_loses_more_at_lower_quality() -> None:
    ramp = (torch.arange(32 * 32) % 97).view(1, 1, 32, 32).to(torch.uint8)
    losses = [
        (Jpeg(q).filter(ramp, LABELS[:1], generator(0, "f")).int() - ramp.int()).abs().sum()
        for q in (5, 50, 95)
    ]
    assert losses[0] > losses[1] > losses[2] > 0


def test_after_projection_a_linear_model_finds_class_wise_noise_no_more() -> None:
    labels = torch.arange(400) % 4
    rng = generator(0, "projection")
    base = torch.randint(110, 146, (400, 1, 8, 8), generator=rng)
    noise = torch.randint(-16, 17, (4, 1, 8, 8), generator=rng)
    images = (base + noise[labels]).to(torch.uint8)
    left = OrthogonalProjection().filter(images, labels, generator(0, "filter"))

    def separation(pixels: Tensor) -> float:
        """Return the variance between classes over that within them, in the best direction."""
        rows = pixels.double().flatten(1)
        means = torch.stack([rows[labels == own].mean(0) for own in range(4)])
        spread = (rows - means[labels]).std()
        return float((means - means.mean(0)).norm(dim=1).mean() / spread)

    assert separation(left) < separation(images) / 3


def test_the_authors_projection_is_that_of_plain_descent_with_two_decays() -> None:
    """Step by step in NumPy: rate 0.1, over ten after half of the epochs and three quarters."""
    recipe: Any = {"momentum": 0.0, "batch_size": 1024, "decay": True, "start": "random"}
    settings = OrthogonalProjection(epochs=8, **recipe)
    rows, labels = torch.rand(60, 5, generator=generator(0, "rows")), torch.arange(60) % 3
    found = settings._train_linear_model(rows, labels, generator(0, "weights")).numpy()
    rng, data, wanted = generator(0, "weights"), rows.double().numpy(), np.eye(3)[labels.numpy()]
    weights = ((2 * torch.rand(5, 3, generator=rng) - 1) / 5**0.5).double().numpy()
    for epoch in range(8):
        scores = np.exp(data @ weights)
        shares = scores / scores.sum(1, keepdims=True)
        rate = 0.1 if epoch < 4 else 0.01 if epoch < 6 else 0.001
        weights -= rate * data.T @ (shares - wanted) / 60
    np.testing.assert_allclose(found, weights, atol=1e-6)


def test_the_authors_projection_leaves_more_of_class_wise_noise() -> None:
    """As their fewer and shorter steps let expect; on grey images with noise of 8 levels."""
    rng = generator(0, "projection")
    labels = torch.arange(400) % 4
    base = torch.randint(60, 196, (400, 1, 8, 8), generator=rng)
    noise = torch.randint(-8, 9, (4, 1, 8, 8), generator=rng)
    images = (base + noise[labels]).to(torch.uint8)
    own = OrthogonalProjection()
    published = OrthogonalProjection(momentum=0.0, batch_size=1024, decay=True, start="random")
    left = []
    for settings in (own, published):
        seen = settings.filter(images, labels, generator(0, "filter")).double()
        means = torch.stack([seen[labels == label].mean(0) for label in range(4)])
        left.append(float((means - means.mean(0)).norm()))
    assert left[0] < left[1]


def test_a_cut_out_is_a_black_square_of_its_side() -> None:
    images = torch.ones(200, 2, 12, 12)
    cut, targets = CutOut(side=0.5).augment(
        images, torch.eye(4)[:1].expand(200, 4), generator(0, "c")
    )
    black = cut == 0
    assert torch.equal(black[:, 0], black[:, 1])
    sizes = black[:, 0].flatten(1).sum(1)
    assert int(sizes.max()) == 36
    assert int(sizes.min()) >= 9
    assert bool((cut[~black] == 1).all())
    assert torch.equal(targets, torch.eye(4)[:1].expand(200, 4))


def test_mixed_images_have_mixed_targets() -> None:
    """Images that are their own targets stay so under any mixing by shares."""
    targets = torch.eye(8)
    images = targets.view(8, 8, 1, 1).expand(8, 8, 4, 4)
    mixed, shares = MixUp().augment(images, targets, generator(1, "mix"))
    torch.testing.assert_close(mixed.mean((2, 3)), shares)
    cut, shares = CutMix().augment(images, targets, generator(4, "cut"))
    torch.testing.assert_close(cut.mean((2, 3)), shares)
    assert set(cut.unique().tolist()) == {0.0, 1.0}
    assert len(shares.unique()) > 2


@pytest.mark.parametrize("attack", ["pgd", "fgsm", "tpgd", "apgd"])
def test_attacks_on_a_linear_model_reach_the_corner_of_the_ball(attack: Any) -> None:
    """Two classes: the worst point lies at x - r sign(w_y - w_other), whatever the attack."""
    layer = nn.Linear(9, 2)
    model = nn.Sequential(nn.Flatten(), layer)
    images = 0.5 + 0.1 * torch.rand(6, 1, 3, 3, generator=generator(0, "images"))
    labels = torch.arange(6) % 2
    own = AdversarialTraining(radius=4 / 255, attack=attack)
    targets = functional.one_hot(labels, 2).float()
    worst = own.find_worst(model, images, targets, generator(0, "attack"))
    sign = (layer.weight[1 - labels] - layer.weight[labels]).sign().view_as(images)
    expected = images + 4 / 255 * sign
    if attack == "tpgd":  # away from its own prediction, in either direction
        both = torch.minimum((worst - expected).abs(), (worst - images * 2 + expected).abs())
        assert float(both.max()) < 1e-6
    else:
        torch.testing.assert_close(worst, expected)


def test_the_hardest_augmentation_is_at_least_as_hard_as_one() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    images, targets = (
        torch.rand(20, 1, 8, 8, generator=generator(0, "x")),
        torch.eye(4)[torch.arange(20) % 4],
    )

    def losses(draws: int) -> Tensor:
        seen = WorstAugmentation(draws=draws).find_worst(model, images, targets, generator(0, "u"))
        return functional.cross_entropy(model(seen), targets, reduction="none")

    one, five = losses(1), losses(5)  # the first draw is the same
    assert bool((five >= one - 1e-6).all())
    assert float(five.mean()) > float(one.mean())


def test_the_hardest_augmentation_is_found_in_training_mode() -> None:
    """On all draws as one batch, whose statistics normalise it; the network keeps its own."""
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    with seed_torch(0, "network"):
        model = nn.Sequential(*layers)
    model[1].running_mean.fill_(3.0)
    images = torch.rand(10, 3, 8, 8, generator=generator(0, "x"))
    targets = torch.eye(4)[torch.arange(10) % 4]
    settings = WorstAugmentation(draws=3)
    found = settings.find_worst(model, images, targets, generator(0, "u"))
    rng = generator(0, "u")
    drawn = torch.stack([settings._augment(images, rng) for _ in range(3)])
    scores = deepcopy(model).train()(drawn.flatten(0, 1))
    losses = functional.cross_entropy(scores, targets.repeat(3, 1), reduction="none").view(3, 10)
    expected = [drawn[int(losses[:, i].argmax()), i] for i in range(10)]
    assert torch.equal(found, torch.stack(expected))
    assert float(model[1].running_mean.min()) == 3.0


def test_a_plasma_covers_the_range_of_kornias() -> None:
    """Uniform at its corners, around a half everywhere, never outside of [0, 1]."""
    drawn = draw_plasma(torch.zeros(400, 3, 33, 33), generator(0, "plasma"))
    assert 0 <= float(drawn.min()) < 0.01
    assert 0.99 < float(drawn.max()) <= 1
    assert float((drawn.mean((0, 1)) - 0.5).abs().max()) < 0.05
    corners = drawn[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].flatten()
    assert float(corners.std()) == pytest.approx(12**-0.5, abs=0.01)
    assert not torch.equal(drawn[:, 0], drawn[:, 1])


def test_strong_augmentations_change_images_as_much_as_kornias() -> None:
    """Pixels of mean 0.47 and deviation 0.22, both plasmas always: Kornia 0.9.0 gives 0.198.

    Rows are of one grey each, so that flips change nothing.
    """
    rows = 0.47 + 0.22 * torch.randn(2000, 1, 32, 1, generator=generator(0, "x"))
    images = rows.clamp(0, 1).expand(-1, -1, -1, 32)
    model = nn.Sequential(nn.Flatten(), nn.Linear(1024, 4))
    targets = torch.eye(4)[torch.arange(2000) % 4]
    for strength, change, spread in ((1.0, 0.198, 0.364), (0.0, 0.0, float(images.std()))):
        own = WorstAugmentation(draws=1, strength=strength, padding=0, probability=1.0)
        seen = own.find_worst(model, images, targets, generator(0, "u"))
        assert float((seen - images).abs().mean()) == pytest.approx(change, abs=0.01)
        assert float(seen.std()) == pytest.approx(spread, abs=0.01)


def test_a_finer_plasma_is_that_of_a_loop_over_points() -> None:
    rng, share = generator(0, "grid"), 0.4
    grid = torch.rand(1, 1, 3, 3, generator=rng)
    found = _refine(grid, torch.full((1, 1, 1), share), generator(1, "points"))[0, 0]
    drawn = share * torch.rand(5, 5, generator=generator(1, "points"))
    expected = torch.zeros(5, 5)
    expected[::2, ::2] = grid[0, 0]
    corners, sides = [(-1, -1), (-1, 1), (1, -1), (1, 1)], [(-1, 0), (1, 0), (0, -1), (0, 1)]
    for odd, around in ((1, corners), (0, sides)):
        for row in range(5):
            for column in range(5):
                middle = row % 2 == 1 and column % 2 == 1
                if middle if odd else (row + column) % 2 == 1:
                    near = [(row + a, column + b) for a, b in around]
                    known = [expected[a, b] for a, b in near if 0 <= a < 5 and 0 <= b < 5]
                    mean = torch.stack(known).mean()
                    expected[row, column] = (1 - share) * mean + drawn[row, column]
    torch.testing.assert_close(found, expected)


def test_kinds_are_applied_in_their_order_whatever_the_list_says() -> None:
    given = (AdversarialTraining(), CutOut(), LowPass("median"), CropFlip(), BitDepth())
    pipeline = Pipeline.of(given)
    assert pipeline.filters == (LowPass("median"), BitDepth())
    assert pipeline.augmentations == (CutOut(), CropFlip())
    assert pipeline.worst_cases == (AdversarialTraining(),)


def test_no_countermeasures_change_no_bit_and_draw_nothing() -> None:
    rng = generator(0, "none")
    state = rng.get_state()
    shard = Shard(0, pixels(), LABELS, torch.arange(8), 4)
    pipeline = Pipeline.of(())
    assert pipeline.filter(shard, rng) is shard
    inputs = pixels() / 255
    assert pipeline.prepare(nn.Identity(), inputs, LABELS, 4, rng) == (inputs, LABELS)
    assert torch.equal(rng.get_state(), state)
    assert SgdClient().countermeasures == ()


@pytest.mark.parametrize("smoothing", [0.0, 0.2, -0.3])
def test_certain_targets_have_the_loss_of_labels(smoothing: float) -> None:
    logits = torch.randn(8, 4, generator=generator(0, "logits"))
    torch.testing.assert_close(
        smoothed_cross_entropy(logits, functional.one_hot(LABELS, 4).float(), smoothing),
        smoothed_cross_entropy(logits, LABELS, smoothing),
    )


def test_a_client_that_changes_its_images_trains_by_itself() -> None:
    """Batched clients do not support countermeasures."""
    assert SgdClient().sgd_config(1) is not None
    assert SgdClient(countermeasures=(CutOut(),)).sgd_config(1) is None
