"""Images and features from the gradients that clients send."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fl_sim.attacks.gradient_inversion import (
    GradientInversion,
    compute_gradient,
    gradient_rank,
    infer_gradient,
    infer_labels,
    recover_head_record,
)
from fl_sim.config.experiment_file import load_python
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.data.sources import load_dataset
from fl_sim.metrics.quality import psnr, ssim

CLASSES = 10
STUDY = load_python(Path(__file__).parents[2] / "experiments/gradient_inversion.py")


def picture(index: int = 3) -> tuple[Tensor, Tensor]:
    """A digit, scaled to 28 x 28 pixels."""
    digits = load_dataset("digits")
    image = as_pixels(digits.train_images[index : index + 1])
    return nn.functional.interpolate(image, (28, 28), mode="bilinear"), digits.train_labels[
        index : index + 1
    ]


def stored(images: Tensor) -> Tensor:
    return (255 * images).round().to(torch.uint8)


def lenet() -> nn.Sequential:
    """The network of Zhu et al. (2019), as the study has it."""
    model: nn.Sequential = STUDY.build_lenet(0)
    return model


@pytest.mark.parametrize("method", [pytest.param("dlg", marks=pytest.mark.slow), "idlg"])
def test_a_gradient_of_one_image_gives_the_image(method: str) -> None:
    """28 x 28 pixels at more than 40 dB: to the eye, the same."""
    model, (image, label) = lenet(), picture()
    attack = GradientInversion(method, steps=200, restarts=1)  # type: ignore[arg-type]
    found = attack.reconstruct(
        model, compute_gradient(model, image, label), (1, 1, 28, 28), CLASSES, 0
    )
    assert float(psnr(stored(image), stored(found))) > 40
    assert float(ssim(stored(image), stored(found))) > 0.99


@pytest.mark.slow
def test_a_direction_is_enough() -> None:
    """Clipping an update keeps its direction: the image stays visible."""
    model, (image, label) = lenet(), picture()
    clipped = compute_gradient(model, image, label) * 1e-3
    attack = GradientInversion("cosine", 400, 0.1, 1e-3, restarts=1)
    found = attack.reconstruct(model, clipped, (1, 1, 28, 28), CLASSES, 0)
    blank = torch.full_like(image, float(image.mean()))
    assert float(psnr(stored(image), stored(found))) > float(psnr(stored(image), stored(blank))) + 3
    assert float(ssim(stored(image), stored(found))) > 0.5


def test_noise_hides_the_image() -> None:
    model, (image, label) = lenet(), picture()
    gradient = compute_gradient(model, image, label)
    rng = generator(0, "noise")
    noisy = gradient + gradient.std() * torch.randn(len(gradient), generator=rng)
    found = GradientInversion("idlg", 100, restarts=1).reconstruct(
        model, noisy, (1, 1, 28, 28), CLASSES, 0
    )
    assert float(psnr(stored(image), stored(found))) < 20


def test_the_same_seed_finds_the_same_bits() -> None:
    model, (image, label) = lenet(), picture()
    gradient, attack = (
        compute_gradient(model, image, label),
        GradientInversion("idlg", 10, restarts=1),
    )
    one, two = (attack.reconstruct(model, gradient, (1, 1, 28, 28), CLASSES, 5) for _ in range(2))
    assert torch.equal(one, two)


def head_gradient(count: int, dim: int = 40) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with seed_torch(1, "head"):
        head = nn.Linear(dim, CLASSES)
    rng = generator(0, "features")
    features = torch.randn(count, dim, generator=rng)
    labels = torch.randint(0, CLASSES, (count,), generator=rng)
    flat = compute_gradient(head, features, labels)
    return features, labels, flat[:-CLASSES].view(CLASSES, dim), flat[-CLASSES:]


def test_the_gradient_of_a_head_is_the_record() -> None:
    features, labels, weight, bias = head_gradient(1)
    found, label = recover_head_record(weight, bias)
    assert label == int(labels)
    assert float((found - features[0]).norm() / features[0].norm()) < 1e-5


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (4, 4), (8, 8), (16, 9), (32, 9)])
def test_the_rank_of_a_heads_gradient_counts_its_records(count: int, rank: int) -> None:
    assert gradient_rank(head_gradient(count)[2]) == rank


def test_one_step_of_a_client_implies_its_gradient() -> None:
    model, (image, label) = lenet(), picture()
    gradient = compute_gradient(model, image, label)
    torch.testing.assert_close(infer_gradient(-0.1 * gradient, 0.1), gradient)


def test_labels_of_a_batch_are_its_negative_gradients() -> None:
    gradient = torch.tensor([0.2, -0.5, 0.1, -0.1])
    assert infer_labels(gradient, 2).tolist() == [1, 3]
    assert infer_labels(gradient, 3).tolist() == [1, 1, 3]
