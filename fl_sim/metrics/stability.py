"""How well protection holds, and what goes along with it: the measures of stable noise.

Losses are cross-entropies in nats. Where the literature leaves the order of minima and maxima
open, the docstring says how it is read here.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.core.perturbation import Loss, sample_uniform, take_sign_steps
from fl_sim.models.modes import eval_mode

Train = Callable[[Float[Tensor, "n c h w"]], nn.Module]
Augment = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n c h w"]]
BATCH = 256


class Correlations(NamedTuple):
    """How two series go together, each from -1 to 1; NaN for fewer than three values, or equal
    ones.
    """

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
def delusiveness(
    model: nn.Module, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"]
) -> float:
    """Return the mean loss on clean test images of a model trained on protected ones (RD).

    Guessing evenly among y classes gives log y; a deluded model is confidently wrong, above it.
    NaN where the model diverged.

    The definition trains the model on t(x + d_u) with transforms t drawn anew in every batch, such
    as random crops and flips. This takes a model that is trained already, so what it was trained
    with is the caller's: `measure_delusiveness` trains one through transforms of its own.

    Source: Liu et al. (2024), definition 4, https://arxiv.org/abs/2311.13091.
    """
    with eval_mode(model) as still:
        losses = [
            functional.cross_entropy(still(batch), own, reduction="sum").double()
            for batch, own in zip(images.split(BATCH), labels.split(BATCH), strict=True)
        ]
    return float(torch.stack(losses).sum()) / len(images)


def measure_delusiveness(
    train: Train,
    protected: Float[Tensor, "n c h w"],
    test_images: Float[Tensor, "t c h w"],
    test_labels: Int64[Tensor, " t"],
    augment: Augment | None = None,
) -> float:
    """Return the delusiveness (RD) of protected images, by a training of its own.

    With `augment`, training and definition see t(x + d_u): the images that `train` is given have
    been transformed once, so that a `train` of several epochs draws no new ones; a `train` that
    transforms each batch itself, as the definition does, needs none.

    Source: Liu et al. (2024), definition 4, https://arxiv.org/abs/2311.13091.

    Args:
        train: returns a model trained on the images that it is given.
        protected: images with noise, in [0, 1].
        test_images: clean images.
        test_labels: their labels.
        augment: the transforms t, such as a crop and flip with a generator of their own.
    """
    seen = protected if augment is None else augment(protected)
    return delusiveness(train(seen), test_images, test_labels)


def surrogate_robustness(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    noise_radius: float,
    adversary_radius: float,
    rng: torch.Generator,
    steps: int = 10,
    cycles: int = 3,
) -> float:
    """Return how well noise can adapt to an adversary while the surrogate is fixed (R_theta).

    Minus the mean loss at max over d_a of min over d_u of L(f(x + d_u + d_a), y): the adversary
    moves first, and the noise answers it last. Estimated by turns of `steps` sign steps, of a fifth
    of each radius. At most 0; 0 means that noise undoes every attack.

    Source: after the definition of Liu et al. (2024), https://arxiv.org/abs/2311.13091; the order
    of the two players and the estimate are this project's.

    Args:
        model: the surrogate; left as it was.
        images: clean images, in [0, 1]; a few hundred are enough.
        labels: their labels.
        noise_radius: of d_u, in pixels of [0, 1].
        adversary_radius: of d_a, in the same unit.
        rng: of the adversary's random start.
        steps: of each turn.
        turns: of both players.
    """
    with eval_mode(model) as still:
        loss = _summed_loss(still, labels)
        noise, attack = torch.zeros_like(images), sample_uniform(images, adversary_radius, rng)
        for _ in range(cycles):
            seen, radius = images + noise, adversary_radius
            attack = take_sign_steps(loss, seen, attack, radius, radius / 5, steps, "maximise")
            seen, radius = images + attack, noise_radius
            noise = take_sign_steps(loss, seen, noise, radius, radius / 5, steps, "minimise")
        return -float(loss(images + attack + noise)) / len(images)


def noise_robustness(
    train: Train,
    images: Float[Tensor, "n c h w"],
    noise: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    adversary_radius: float,
    rng: torch.Generator,
    steps: int = 10,
    cycles: int = 2,
) -> float:
    """Return how well fixed noise withstands an adversary to which a model adapts (R_delta).

    Minus the mean loss at max over d_a of min over theta of L(f_theta(x + d_u + d_a), y). Each
    turn trains a model anew on what the adversary left, and one more training ends it: turns + 1
    trainings. At most 0.

    Source: after the definition of Liu et al. (2024), https://arxiv.org/abs/2311.13091; the order
    of the two players and the estimate are this project's.

    Args:
        train: returns a model trained on the images that it is given, in the order of `labels`.
        images: clean images, in [0, 1].
        noise: of each image, with images + noise in [0, 1].
        labels: of the images.
        adversary_radius: of d_a, in pixels of [0, 1].
        rng: of the adversary's random start.
        steps: of the adversary in a turn, of a fifth of its radius.
        turns: of adversary and training.
    """
    protected = images + noise
    attack = sample_uniform(protected, adversary_radius, rng)
    for _ in range(cycles):
        model = train(protected + attack)
        with eval_mode(model) as still:
            loss, radius = _summed_loss(still, labels), adversary_radius
            attack = take_sign_steps(loss, protected, attack, radius, radius / 5, steps, "maximise")
    return -delusiveness(train(protected + attack), protected + attack, labels)


def stability(
    train: Train,
    protected: Float[Tensor, "n c h w"],
    test_images: Float[Tensor, "t c h w"],
    test_labels: Int64[Tensor, " t"],
    radius: float,
    rng: torch.Generator,
    draws: int = 3,
) -> float:
    """Return minus the least delusiveness that is left when the noise is moved at random (S).

    S is the opposite of the worst-case delusiveness: minus the smallest RD over `draws` uniform
    changes of the protected images, each with a training of its own. At most 0. With the paper's
    sign, the lower S is, the more of the delusiveness is sure to be left: noise that protects
    whatever is done to it is far below -log y, of y classes. NaN where the model of any draw
    diverged, since the worst case is not known then.

    Transforms in training are the caller's: see `delusiveness`.

    Source: after definition 5 of Liu et al. (2024), https://arxiv.org/abs/2311.13091, with random
    changes in the place of the worst one.

    Args:
        train: returns a model trained on the images that it is given.
        protected: images with noise, in [0, 1].
        test_images: clean images.
        test_labels: their labels.
        radius: of the changes, in pixels of [0, 1].
        rng: of the changes.
        draws: number of changes and trainings.
    """
    moved = [protected + sample_uniform(protected, radius, rng) for _ in range(draws)]
    left = [delusiveness(train(own), test_images, test_labels) for own in moved]
    return -min(left) if all(map(math.isfinite, left)) else math.nan


def correlations(first: Sequence[float], second: Sequence[float]) -> Correlations:
    """Return Pearson's, Spearman's and Kendall's (tau-b) coefficients; no relation gives 0.

    Over the pairs of which both values are numbers.

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


def _summed_loss(model: nn.Module, labels: Int64[Tensor, " n"]) -> Loss:
    return lambda images: functional.cross_entropy(model(images), labels, reduction="sum")
