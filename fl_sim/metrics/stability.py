"""Measures of stable noise: protection performance, delusiveness, robustness, correlations.

Losses are cross-entropies in nats. Docstrings state the order of minima and maxima where the
literature leaves it open.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.contracts import Images, Labels
from fl_sim.core.perturbation import Loss, sample_uniform, take_sign_steps
from fl_sim.models.modes import eval_mode

Train = Callable[[Images], nn.Module]
Augment = Callable[[Images], Images]
BATCH = 256


class Correlations(NamedTuple):
    """Correlation coefficients, from -1 to 1; NaN for fewer than three values or constant ones."""

    pearson: float
    spearman: float
    kendall: float


def protection_performance(accuracy: float) -> float:
    """Return 1 - accuracy of a model trained on protected images: 1 is perfect protection.

    Guessing among y classes gives 1 - 1 / y.

    Source: Liu et al. (2024), Stable Unlearnable Example, https://arxiv.org/abs/2311.13091.

    >>> protection_performance(0.25)
    0.75
    """
    return 1 - accuracy


@torch.no_grad()
def delusiveness(model: nn.Module, images: Images, labels: Labels) -> float:
    """Return the mean loss on clean test images of a model trained on protected ones (RD).

    A uniform prediction over y classes gives log y; a deluded model is confidently wrong and lies
    above. NaN if the model diverged.

    The definition trains the model on t(x + d_u) with transforms t drawn anew in every batch, such
    as random crops and flips. This function takes a trained model, so the transforms are the
    caller's: `measure_delusiveness` trains a model itself.

    Source: Liu et al. (2024), definition 4, https://arxiv.org/abs/2311.13091.
    """
    with eval_mode(model) as frozen:
        losses = [
            functional.cross_entropy(frozen(batch), targets, reduction="sum").double()
            for batch, targets in zip(images.split(BATCH), labels.split(BATCH), strict=True)
        ]
    return float(torch.stack(losses).sum()) / len(images)


def measure_delusiveness(
    train: Train,
    protected: Images,
    test_images: Float[Tensor, "t c h w"],
    test_labels: Int64[Tensor, " t"],
    augment: Augment | None = None,
) -> float:
    """Return the delusiveness (RD) of protected images, with a model trained on them.

    With `augment`, the images are transformed once, before training, and not anew in each epoch.
    A `train` that transforms each batch itself, as in the definition, needs no `augment`. A
    uniform prediction over y classes gives log y.

    Source: Liu et al. (2024), definition 4, https://arxiv.org/abs/2311.13091.

    Args:
        train: Function that returns a model trained on the given images.
        protected: Images with noise, in [0, 1].
        test_images: Clean images, in [0, 1].
        test_labels: Labels of the test images.
        augment: Transforms t of a batch, such as random crops and flips; None for none.
    """
    images = protected if augment is None else augment(protected)
    return delusiveness(train(images), test_images, test_labels)


def surrogate_robustness(
    model: nn.Module,
    images: Images,
    labels: Labels,
    noise_radius: float,
    adversary_radius: float,
    rng: torch.Generator,
    steps: int = 10,
    cycles: int = 3,
) -> float:
    """Return the robustness of noise that adapts to an adversary at a fixed surrogate (R_theta).

    Minus the mean loss at max over d_a of min over d_u of L(f(x + d_u + d_a), y): the noise is
    optimised last, against the adversary. Estimated by alternating `steps` sign steps of each, of
    a fifth of their radius. At most 0, which means that noise undoes every attack; a surrogate
    with uniform predictions over y classes gives -log y.

    Source: after the definition of Liu et al. (2024), https://arxiv.org/abs/2311.13091; the order
    of the two players and the estimate are this project's.

    Args:
        model: Surrogate, which is not changed.
        images: Clean images, in [0, 1]; a few hundred are enough.
        labels: Labels of the images.
        noise_radius: Largest change d_u of a pixel, in [0, 1].
        adversary_radius: Largest change d_a of a pixel, in [0, 1].
        rng: Generator of the adversary's random start.
        steps: Number of sign steps of each side per cycle.
        cycles: Number of alternations of adversary and noise.
    """
    with eval_mode(model) as frozen:
        loss = _summed_loss(frozen, labels)
        noise, attack = torch.zeros_like(images), sample_uniform(images, adversary_radius, rng)
        for _ in range(cycles):
            inputs, radius = images + noise, adversary_radius
            attack = take_sign_steps(loss, inputs, attack, radius, radius / 5, steps, "maximise")
            inputs, radius = images + attack, noise_radius
            noise = take_sign_steps(loss, inputs, noise, radius, radius / 5, steps, "minimise")
        return -float(loss(images + attack + noise)) / len(images)


def noise_robustness(
    train: Train,
    images: Images,
    noise: Images,
    labels: Labels,
    adversary_radius: float,
    rng: torch.Generator,
    steps: int = 10,
    cycles: int = 2,
) -> float:
    """Return the robustness of fixed noise to an adversary to which a model adapts (R_delta).

    Minus the mean loss at max over d_a of min over theta of L(f_theta(x + d_u + d_a), y). Each
    cycle trains a new model on the attacked images, and a last one is trained at the end. At most
    0; uniform predictions over y classes give -log y.

    Source: after the definition of Liu et al. (2024), https://arxiv.org/abs/2311.13091; the order
    of the two players and the estimate are this project's.

    Args:
        train: Function that returns a model trained on the given images, ordered as `labels`.
        images: Clean images, in [0, 1].
        noise: Noise of each image, with images + noise in [0, 1].
        labels: Labels of the images.
        adversary_radius: Largest change d_a of a pixel, in [0, 1].
        rng: Generator of the adversary's random start.
        steps: Number of the adversary's sign steps per cycle, of a fifth of its radius.
        cycles: Number of alternations of training and adversary.
    """
    protected = images + noise
    attack = sample_uniform(protected, adversary_radius, rng)
    for _ in range(cycles):
        model = train(protected + attack)
        with eval_mode(model) as frozen:
            loss, radius = _summed_loss(frozen, labels), adversary_radius
            attack = take_sign_steps(loss, protected, attack, radius, radius / 5, steps, "maximise")
    return -delusiveness(train(protected + attack), protected + attack, labels)


def stability(
    train: Train,
    protected: Images,
    test_images: Float[Tensor, "t c h w"],
    test_labels: Int64[Tensor, " t"],
    radius: float,
    rng: torch.Generator,
    draws: int = 3,
) -> float:
    """Return minus the smallest delusiveness under random changes of the noise (S).

    Minus the smallest RD over `draws` uniform changes of the protected images, each with a model
    trained on them. At most 0; uniform predictions over y classes give -log y, and noise that
    protects under every change lies far below. NaN if any model diverged, since the worst case is
    then unknown.

    Transforms in training are the caller's: see `delusiveness`.

    Source: after definition 5 of Liu et al. (2024), https://arxiv.org/abs/2311.13091, with random
    changes in the place of the worst one.

    Args:
        train: Function that returns a model trained on the given images.
        protected: Images with noise, in [0, 1].
        test_images: Clean images, in [0, 1].
        test_labels: Labels of the test images.
        radius: Largest change of a pixel, in [0, 1].
        rng: Generator of the changes.
        draws: Number of changes, and of trainings.
    """
    changed = [protected + sample_uniform(protected, radius, rng) for _ in range(draws)]
    losses = [delusiveness(train(images), test_images, test_labels) for images in changed]
    return -min(losses) if all(map(math.isfinite, losses)) else math.nan


def correlations(first: Sequence[float], second: Sequence[float]) -> Correlations:
    """Return Pearson's, Spearman's and Kendall's (tau-b) coefficients; unrelated series give 0.

    Over the pairs of which both values are defined.

    Source: the usual definitions, by SciPy.

    >>> round(correlations([1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 9.0, 16.0]).spearman, 6)
    1.0
    """
    if len(first) != len(second):
        raise ValueError(f"as many values on both sides; got {len(first)} and {len(second)}")
    pairs = [(x, y) for x, y in zip(first, second, strict=True) if x == x and y == y]
    first, second = [x for x, _ in pairs], [y for _, y in pairs]
    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return Correlations(*[float("nan")] * 3)
    from scipy import stats  # seconds to import, and every run looks for metrics here

    measures = (stats.pearsonr, stats.spearmanr, stats.kendalltau)
    return Correlations(*(float(m(first, second).statistic) for m in measures))


def _summed_loss(model: nn.Module, labels: Labels) -> Loss:
    return lambda images: functional.cross_entropy(model(images), labels, reduction="sum")
