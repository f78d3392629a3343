"""Noise without a network against its definition: AR, OPS, CUDA, PIL, masks, crops, TAP."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from fl_sim.contracts import Dataset
from fl_sim.core.errors import FieldError
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator
from fl_sim.core.serialization import describe
from fl_sim.core.transforms import CropFlipTransform, draw_crop_flip
from fl_sim.models.surrogate import Surrogate
from fl_sim.protections import autoregressive, error_maximizing, one_pixel, targeted_adversarial
from fl_sim.protections.autoregressive import (
    CROP,
    LARGEST,
    Autoregressive,
    draw_coefficients,
    filter_responses,
    run_recurrence,
)
from fl_sim.protections.convolution import Convolution
from fl_sim.protections.error_maximizing import ErrorMaximizing
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linearization import Linearization
from fl_sim.protections.one_pixel import OnePixel
from fl_sim.protections.sparsity_masking import SparsityMasking, select_largest_gradients
from fl_sim.protections.targeted_adversarial import TargetedAdversarial


@pytest.fixture(scope="module")
def some(digits: Dataset) -> tuple[Tensor, Tensor]:
    return as_pixels(digits.train_images), digits.train_labels


def test_the_recurrence_is_that_of_a_loop_over_pixels() -> None:
    rng = generator(0, "start")
    start = torch.randn(2, 1, 7, 6, generator=rng, dtype=torch.float64)
    weights = torch.randn(2, 1, 3, 3, generator=rng, dtype=torch.float64)
    weights[:, :, 2, 2] = 0
    expected = start.clone().numpy()
    for image in range(2):
        for row in range(2, 7):
            for column in range(2, 6):
                expected[image, 0, row, column] = sum(
                    float(weights[image, 0, a, b]) * expected[image, 0, row - 2 + a, column - 2 + b]
                    for a in range(3)
                    for b in range(3)
                )
    np.testing.assert_allclose(run_recurrence(start, weights).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_filter_of_its_class_finds_nothing_in_autoregressive_noise(channels: int) -> None:
    """With -1 in the last place, a class's coefficients answer 0 to its noise, not to others."""
    labels = torch.arange(40) % 4
    noise = Autoregressive().noise(torch.full((40, channels, 16, 16), 0.5), labels, 0)
    first = noise[labels == 0][:, :1]
    solved = torch.linalg.lstsq(*windows(first)).solution
    own = residual(first, solved)
    others = [residual(noise[labels == other][:, :1], solved) for other in (1, 2, 3)]
    assert own < 1e-4
    assert min(others) > 100 * own


def windows(signal: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eight neighbours of each pixel, and the pixel."""
    rows = functional.unfold(signal, 3).transpose(1, 2).reshape(-1, 9)
    return rows[:, :8], rows[:, 8:]


def residual(signal: Tensor, solved: Tensor) -> float:
    neighbours, pixel = windows(signal)
    return float((neighbours @ solved - pixel).square().mean().sqrt() / signal.std())


def test_autoregressive_noise_has_its_radius_and_stays_even() -> None:
    """No corner takes it all: the largest pixel stays within ten times the root mean square."""
    images = torch.full((30, 1, 28, 28), 0.5)
    noise = Autoregressive(radius=6 / 255).noise(images, torch.arange(30) % 4, 1)
    sizes = noise.square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(sizes, torch.full((30,), 6 / 255))
    assert float(noise.abs().max()) < 10 * 6 / 255
    assert CROP >= 2


def test_autoregressive_noise_is_even_on_large_colour_images() -> None:
    """3 x 64 x 64, three classes: the root mean squares of the quarters are alike for each class.

    Coefficients that are tried on 32 x 32 pixels alone grow further: 54 to 70 times in the last
    quarter was seen.
    """
    labels = torch.arange(30) % 3
    noise = Autoregressive().noise(torch.full((30, 3, 64, 64), 0.5), labels, 0)
    quarters = noise.unfold(2, 32, 32).unfold(3, 32, 32).square().mean((1, 4, 5)).flatten(1)
    for own in range(3):
        sizes = quarters[labels == own].mean(0).sqrt()
        assert float(sizes.max() / sizes.min()) < 2.5


def test_coefficients_meet_the_authors_conditions() -> None:
    """3 x 32 x 32, five classes: fresh starts keep to the L2 norm; filters of others answer."""
    own = draw_coefficients(5, (3, 32, 32), 10.0, 0).double()
    sums = own.sum((2, 3))
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-5)
    start = torch.randn(40, 5, 3, 36, 36, generator=generator(1, "start"), dtype=torch.float64)
    repeated = own.expand(40, 5, 3, 3, 3).flatten(0, 1)
    signals = run_recurrence(start.flatten(0, 1), repeated)[:, :, CROP:, CROP:].view(
        40, 5, 3, 32, 32
    )
    norms = signals.square().sum((2, 3, 4)).sqrt()
    assert pytest.approx(50) == LARGEST * (3 * 32 * 32) ** 0.5
    assert float((norms <= 50).double().mean()) > 0.9  # three starts were tried, not these
    answers = torch.stack([filter_responses(one, own) for one in signals]).mean(0)
    for number in range(5):
        assert float(answers[number, number]) < 1e-9
        assert number == 0 or float(answers[number, :number].min()) > 7


def test_a_response_is_the_sum_of_positive_correlations_with_a_unit_signal() -> None:
    rng = generator(0, "signal")
    signal = torch.randn(1, 2, 6, 5, generator=rng, dtype=torch.float64)
    weights = torch.randn(1, 2, 3, 3, generator=rng, dtype=torch.float64)
    kernels = weights.clone()
    kernels[:, :, 2, 2] = -1
    unit = (signal / signal.norm())[0]
    answer = sum(correlate2d(unit[c], kernels[0, c], mode="valid") for c in range(2))
    assert float(filter_responses(signal, weights)) == pytest.approx(np.maximum(answer, 0).sum())


def test_coefficients_of_a_class_do_not_depend_on_later_classes() -> None:
    assert torch.equal(
        draw_coefficients(5, (1, 8, 8), 10.0, 3)[:2], draw_coefficients(2, (1, 8, 8), 10.0, 3)
    )


def test_patience_falls_with_the_number_of_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for all of them ends; the first classes are as without the others."""
    tried: list[int] = []
    drawn = autoregressive._draw_stable
    monkeypatch.setattr(autoregressive, "PATIENCE", 9)
    monkeypatch.setattr(autoregressive, "_draw_stable", lambda *own: tried.append(1) or drawn(*own))
    first = draw_coefficients.__wrapped__(6, (1, 4, 4), 10.0, 0)
    usual = len(tried)
    monkeypatch.setattr(autoregressive, "FEW", 2)
    own = draw_coefficients.__wrapped__(6, (1, 4, 4), 10.0, 0)
    assert len(own.flatten(1).unique(dim=0)) == 6
    assert torch.equal(own[:2], first[:2])
    assert len(tried) - usual < usual
    with pytest.raises(FieldError, match=r"images: .*at most 1000 classes"):
        Autoregressive().check((1, 5, 5), 1001)


def test_responses_are_those_of_each_signal_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many signals at once as fit into memory."""
    rng = generator(0, "signal")
    signals = torch.randn(7, 2, 6, 5, generator=rng)
    weights = torch.randn(3, 2, 3, 3, generator=rng)
    whole = filter_responses(signals, weights)
    monkeypatch.setattr(autoregressive, "MAX_NUMBERS", 200)
    torch.testing.assert_close(filter_responses(signals, weights), whole)


def test_one_pixel_of_a_class_changes_and_no_two_classes_share_it(
    some: tuple[Tensor, Tensor],
) -> None:
    images, labels = some
    noise = OnePixel().noise(images, labels, 0)
    changed = (noise != 0).flatten(1)
    assert int(changed.sum(1).max()) == 1
    marks = set()
    for label in range(10):
        values = (images + noise)[labels == label].flatten(1)
        places = changed[labels == label].any(0).nonzero().flatten().tolist()
        assert len(places) == 1
        assert len(values[:, places[0]].unique()) == 1
        marks.add((places[0], float(values[0, places[0]])))
    assert len(marks) == 10


def test_the_score_of_a_pixel_is_its_mean_distance_over_the_variance() -> None:
    images = torch.rand(6, 3, 2, 2, generator=generator(0, "images"))
    colour = torch.tensor([[1.0, 0.0, 1.0]])
    found = one_pixel.score_pixels(images, colour)[0]
    for place in range(4):
        distances = []
        for image in images.flatten(2):
            pixel = image[:, place].tolist()
            distances.append(sum(abs(p - c) for p, c in zip(pixel, (1, 0, 1), strict=True)) / 3)
        expected = np.mean(distances) / (np.var(distances) + one_pixel.FLAT)
        assert float(found[place]) == pytest.approx(expected, rel=1e-4)


def test_the_score_of_the_authors_code_is_over_the_deviation_of_images_and_channels() -> None:
    images = torch.rand(6, 3, 2, 2, generator=generator(0, "images"))
    colour = torch.tensor([[1.0, 0.0, 1.0]])
    found = one_pixel.score_pixels(images, colour, "deviation")[0]
    for place in range(4):
        distances = (images.flatten(2)[:, :, place] - colour).abs().numpy()
        expected = np.mean(distances) / (np.std(distances) + one_pixel.FLAT)
        assert float(found[place]) == pytest.approx(expected, rel=1e-4)
    labels = torch.arange(6) % 2
    kinds = [OnePixel(score=score).noise(images, labels, 0) for score in ("variance", "deviation")]
    assert all(int((own != 0).any(1).flatten(1).sum(1).max()) == 1 for own in kinds)


@pytest.mark.parametrize("per_channel", [False, True])
def test_convolution_noise_is_scipys_correlation_over_its_maximum(per_channel: bool) -> None:
    """One filter a class for all channels, as in the authors' code, unless asked otherwise."""
    images = torch.rand(4, 3, 7, 6, generator=generator(0, "images"))
    labels = torch.tensor([0, 1, 1, 0])
    settings = Convolution(per_channel=per_channel)
    filters = settings.draw_filters(2, 3, 9)
    assert torch.equal((filters == 1).flatten(2).sum(2), torch.ones(2, 3))
    assert torch.equal(filters[:, 0], filters[:, 2]) is not per_channel
    noise = settings.noise(images, labels, 9)
    for image, label, own in zip(images, labels.tolist(), noise, strict=True):
        blurred = np.stack(
            [
                correlate2d(image[c].numpy(), filters[label, c].numpy(), mode="same")
                for c in range(3)
            ]
        )
        expected = blurred / blurred.max() - image.numpy()
        np.testing.assert_allclose(own.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("per_channel", "is_told"), [(False, False), (True, True)])
def test_colours_tell_the_class_only_where_each_channel_has_a_filter(
    per_channel: bool, is_told: bool
) -> None:
    """Logistic regression on the ratios of mean colours; ten classes, chance is 0.1."""
    rng = generator(0, "colours")
    tints = 0.4 + 0.2 * torch.rand(600, 3, 1, 1, generator=rng)
    images = (tints + 0.1 * torch.randn(600, 3, 16, 16, generator=rng)).clamp(0, 1)
    labels = torch.arange(600) % 10
    seen = images + Convolution(per_channel=per_channel).noise(images, labels, 0)
    means = seen.mean((2, 3))
    ratios = (means[:, :2] / means[:, 2:]).log().numpy()
    probe = LogisticRegression(max_iter=1000).fit(ratios[:400], labels[:400].numpy())
    score = probe.score(ratios[400:], labels[400:].numpy())
    assert score > 0.2 if is_told else score < 0.17


def test_a_linear_model_reads_the_class_from_linearising_noise(some: tuple[Tensor, Tensor]) -> None:
    images, labels = some
    noise = Linearization(radius=16 / 255).noise(images, labels, 0)
    scaled = noise.flatten(1).numpy() * 255 / 16
    probe = LogisticRegression(max_iter=1000).fit(scaled[:80], labels[:80].numpy())
    assert probe.score(scaled[80:], labels[80:].numpy()) > 0.95


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_masked_noise_changes_no_more_than_its_share(
    share: float, some: tuple[Tensor, Tensor]
) -> None:
    images, labels = some
    noise = SparsityMasking(share=share, max_passes=2).noise(images, labels, 0)
    assert int((noise != 0).flatten(1).sum(1).max()) <= round(share * 64)
    assert int((noise != 0).sum()) > 0


def test_masked_noise_leaves_an_empty_background_alone() -> None:
    images = torch.zeros(8, 1, 12, 12)
    images[:, :, 4:7, 5:8] = torch.rand(8, 1, 3, 3, generator=generator(0, "content")) / 2 + 0.25
    settings = SparsityMasking(share=1.0, content_only=True, max_passes=2)
    noise = settings.noise(images, torch.arange(8) % 2, 0)
    near = torch.zeros(12, 12, dtype=torch.bool)
    near[3:8, 4:9] = True
    assert float(noise[:, 0, ~near].abs().max()) == 0
    assert float(noise[:, 0, near].abs().max()) > 0


def test_the_mask_follows_the_gradient() -> None:
    weights = torch.randn(1, 2, 3, 3, generator=generator(0, "weights"))
    images = torch.rand(2, 2, 3, 3, generator=generator(0, "images"))
    mask = select_largest_gradients(lambda moved: (weights * moved).sum(), images, 3 / 9)
    order = weights.abs().mean(1).flatten().argsort(descending=True)[:3]
    for own in mask.flatten(1):
        assert set(own.nonzero().flatten().tolist()) == set(order.tolist())


def test_positive_noise_is_what_the_released_evaluation_applies(
    some: tuple[Tensor, Tensor], digits: Dataset
) -> None:
    """Noise in levels is clamped to [0, 255], added, clipped, and truncated to whole levels."""
    images, labels = some
    full, half = (
        ErrorMinimizing(radius=16 / 255, max_passes=2, apply=apply)
        for apply in ("full", "positive_only")
    )
    noise = full.noise(images, labels, 0)
    levels = (noise * 255).clamp(0, 255)
    expected = (digits.train_images.float() + levels).clamp(0, 255).to(torch.uint8)
    found = half.protect(digits.train_images, labels, torch.arange(len(labels)), 0)
    assert torch.equal(found, expected)


def cropped_by_definition(image: Tensor, padding: int, top: int, left: int, flip: bool) -> Tensor:
    height, width = image.shape[1:]
    padded = torch.zeros(image.shape[0], height + 2 * padding, width + 2 * padding)
    padded[:, padding : padding + height, padding : padding + width] = image
    cut = padded[:, top : top + height, left : left + width]
    return cut.flip(2) if flip else cut


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crops_and_flips_are_those_of_a_loop_over_images(padding: int) -> None:
    images = torch.rand(20, 2, 6, 5, generator=generator(0, "images"))
    drawn = draw_crop_flip(20, padding, True, generator(0, "crops"))
    expected = [
        cropped_by_definition(image, padding, int(top), int(left), bool(flip))
        for image, top, left, flip in zip(
            images, drawn.top, drawn.left, drawn.mirrored, strict=True
        )
    ]
    assert torch.equal(drawn(images), torch.stack(expected))
    assert 0 < int(drawn.mirrored.sum()) < 20
    assert {int(drawn.top.min()), int(drawn.top.max())} == {0, 2 * padding}


def test_gradients_flow_back_through_crops_and_flips() -> None:
    images = torch.rand(3, 1, 4, 4, generator=generator(0, "images"), dtype=torch.float64)
    drawn: CropFlipTransform = draw_crop_flip(3, 2, True, generator(0, "crops"))
    assert torch.autograd.gradcheck(drawn, (images.requires_grad_(True),))


def test_targeted_poison_looks_like_the_next_class_to_its_surrogate(
    some: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 0, radius 16/255: the loss towards class y + 1 falls, that towards y rises."""
    images, labels = some
    trained: list[Surrogate] = []

    class Remembered(Surrogate):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            trained.append(self)

    monkeypatch.setattr(targeted_adversarial, "Surrogate", Remembered)
    settings = TargetedAdversarial(radius=16 / 255, padding=0, noise_steps=130, surrogate_epochs=4)
    moved = images + settings.noise(images, labels, 0)
    (surrogate,) = trained
    for target, falls in (((labels + 1) % 10, True), (labels, False)):
        loss = surrogate.make_loss(target)
        assert (float(loss(moved)) < float(loss(images))) is falls


@pytest.mark.parametrize("start", ["zero", "uniform", "gaussian"])
def test_targeted_poison_starts_where_it_is_asked_to(start: Any) -> None:
    """A Gaussian of the radius, clipped: 32 % of its pixels lie at the radius."""
    settings, images = TargetedAdversarial(start=start), torch.full((40, 1, 16, 16), 0.5)
    drawn = settings._draw_start(images, generator(0, "start")) * 255 / 8
    border = float((drawn.abs() > 1 - 1e-4).double().mean())
    spread = {"zero": 0.0, "uniform": 3**-0.5, "gaussian": 0.719}
    assert border == pytest.approx(0.317 if start == "gaussian" else 0.0, abs=0.01)
    assert float(drawn.square().mean().sqrt()) == pytest.approx(spread[start], abs=0.01)


def test_the_best_of_several_attacks_is_kept() -> None:
    """On a wavy loss, where the start decides: the lowest of four, as found one by one."""
    images = torch.full((6, 1, 3, 3), 0.5)

    def loss(moved: Tensor) -> Tensor:
        return (200 * moved).sin().sum() + moved.sum()

    one = TargetedAdversarial(start="uniform", padding=0, noise_steps=3)
    many = TargetedAdversarial(start="uniform", padding=0, noise_steps=3, restarts=4)
    rng = generator(2, "attacks")
    found = [one._attack(loss, images, rng) for _ in range(4)]
    best = min(found, key=lambda noise: float(loss(images + noise)))
    assert torch.equal(many._attack_repeatedly(loss, images, generator(2, "attacks")), best)
    assert not torch.equal(best, found[0])


def test_the_authors_recipe_of_targeted_poison_is_offered(some: tuple[Tensor, Tensor]) -> None:
    images, labels = some
    radius = 8 / 255
    published = TargetedAdversarial(
        radius, step_size=radius / 20, start="gaussian", restarts=2, clip_gradient=None
    )
    quick = replace(published, surrogate_epochs=2, noise_steps=3)
    noise = quick.noise(images[:40], labels[:40], 0)
    assert float(noise.abs().max()) <= radius + 1e-6
    assert "start" not in describe(TargetedAdversarial())


@pytest.mark.parametrize("form", ["sample", "class"])
def test_error_maximising_noise_raises_the_loss_of_its_surrogate(
    form: Any, some: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = some
    trained: list[Surrogate] = []

    class Remembered(Surrogate):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            trained.append(self)

    monkeypatch.setattr(error_maximizing, "Surrogate", Remembered)
    settings = ErrorMaximizing(radius=16 / 255, form=form, surrogate_epochs=4, max_passes=2)
    moved = images + settings.noise(images, labels, 0)
    loss = trained[0].make_loss(labels)
    assert float(loss(moved)) > float(loss(images))
