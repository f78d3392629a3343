"""Autoregressive noise: a linear recurrence over pixels for each class."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from fl_sim.contracts import Images, Labels, Protection
from fl_sim.core.device import cache_tensors
from fl_sim.core.errors import require, require_at_least
from fl_sim.core.seeding import generator

WINDOW = 3
CROP = 4  # rows and columns at the start of the recurrence that are discarded
STARTS = 3  # random starts of which none may exceed `LARGEST`
LARGEST = 50 / (3 * 32 * 32) ** 0.5  # root mean square: the authors' L2 norm of 50, on CIFAR-10
LEAST_CHANGE = 0.2  # smallest standard deviation in the last quarter; this project's
UNEVEN = 2.0  # largest ratio of the root mean squares of two quarters; this project's
PROBE = 32  # side of the images on which diverging recurrences are rejected early
CANDIDATES = 64  # recurrences that are tried at once
PATIENCE = 30  # batches of candidates, after which a smaller response is accepted
FEW = 30  # classes; with more of them patience falls, so that the search ends
MAX_CLASSES = 1000  # filters are compared with all earlier ones: time grows with the square
MAX_NUMBERS = 2**26  # largest number of values in a batch of responses: 256 MiB


@final
@dataclass(frozen=True)
class Autoregressive(Protection):
    """Noise in which each pixel follows from its eight neighbours above and to the left (AR).

    Coefficients belong to a class and channel, and the start of the recurrence to an image: a
    convolution can tell classes apart although no two images have the same noise. Needs no
    surrogate.

    Coefficients are drawn until they meet the two conditions of the authors' search, at the size
    of the images: the L2 norm of the noise is at most 50 for each of three random starts (for
    3 x 32 x 32 pixels; in general, a root mean square of 0.90 per channel), and the response of
    each earlier class's filter to the noise, scaled to an L2 norm of 1, is at least 10 (for 32 x
    32 pixels; in general, in proportion to the root of the number of pixels). Two conditions are
    this project's: the root mean squares of the four quarters differ by at most a factor of two,
    and the standard deviation of the last quarter is at least 0.2 of that of a start. If no
    candidate fits, as with many classes or few pixels, the required response falls by a tenth
    after 30 batches of 64 candidates, and sooner in proportion from the 30th class on. The search
    for 200 classes of 3 x 32 x 32 pixels takes about a minute; more than 1,000 classes are
    refused.

    Source: Sandoval-Segura et al. (2022), Autoregressive Perturbations, section 3,
    https://arxiv.org/abs/2206.03693. The paper ships coefficients for 3 channels; these are
    drawn by the seed, for any shape.

    Attributes:
        radius: Root mean square of an image's noise, in [0, 1]; the paper's L2 norm of 1 on
            3 x 32 x 32 pixels is 4.6/255. Single pixels change several times as much.
        response: Smallest response of the filters of earlier classes, for 32 x 32 pixels; the
            paper's coefficients have 10 for 10 classes and 3 for 100 classes.
    """

    radius: float = 4.6 / 255
    response: float = 10.0  # not `omit_if_default`: it changed the noise
    norm: ClassVar[Literal["linf", "l2"]] = "l2"
    short: ClassVar[str] = "ar"
    min_side: ClassVar[int] = WINDOW

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "response")

    def check(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        """Refuse numbers of classes for which the search would take hours."""
        super().check(image_shape, num_classes)
        require(num_classes <= MAX_CLASSES, "images", f"at most {MAX_CLASSES} classes", num_classes)

    def noise(self, images: Images, labels: Labels, seed: int) -> Images:
        """Return each image's recurrence, scaled to the radius; all images run at once."""
        count, channels, height, width = images.shape
        shape = (channels, height, width)
        weights = draw_coefficients(int(labels.max()) + 1, shape, self.response, seed)
        rng = generator(seed, "autoregressive", "start")
        start = torch.randn(count, channels, height + CROP, width + CROP, generator=rng).double()
        signal = run_recurrence(start, weights.double()[labels])[:, :, CROP:, CROP:].float()
        return self.radius * signal / signal.square().mean((1, 2, 3), keepdim=True).sqrt()


def run_recurrence(start: Images, coefficients: Float[Tensor, "n c 3 3"]) -> Images:
    """Return the signal: the first two rows and columns of the start, the rest by recurrence.

    Each pixel is the sum of the 3 x 3 window that ends in it, weighted by the coefficients, of
    which the last one is 0. Pixels of one anti-diagonal are independent and computed together.
    """
    height, width = start.shape[2:]
    signal, weights = start.flatten(2).clone(), coefficients.flatten(2).unsqueeze(2)
    edge = WINDOW - 1
    offsets = torch.arange(edge, -1, -1)
    window = (offsets[:, None] * width + offsets).flatten()
    for diagonal in range(2 * edge, height + width - 1):
        rows = torch.arange(max(edge, diagonal - width + 1), min(height - 1, diagonal - edge) + 1)
        pixels = rows * width + diagonal - rows
        signal[:, :, pixels] = (signal[:, :, pixels[:, None] - window] * weights).sum(3)
    return signal.view_as(start)


@cache_tensors(maxsize=4)
def draw_coefficients(
    num_classes: int, image_shape: tuple[int, int, int], response: float, seed: int
) -> Float[Tensor, "y c 3 3"]:
    """Draw the coefficients of each class, for images of shape `image_shape`.

    The coefficients of a class do not depend on later classes. The result is cached and must not
    be changed.
    """
    channels, height, width = image_shape
    rng = generator(seed, "autoregressive", "coefficients")
    required = response * (max(1, height - 2) * max(1, width - 2)) ** 0.5 / 30
    chosen = torch.empty(0, channels, WINDOW, WINDOW)
    num_failures = 0
    while len(chosen) < num_classes:
        drawn, signals = _draw_stable(height, width, rng)
        rows = _combine_channels(len(drawn), channels, rng)
        lowest, before = _lowest_response(signals[rows], chosen), len(chosen)
        while len(chosen) < num_classes and bool((lowest >= required).any()):
            best = rows[(lowest >= required).nonzero()[0]]
            chosen = torch.cat([chosen, drawn[best]])
            lowest = torch.minimum(lowest, _lowest_response(signals[rows], chosen[-1:]))
            lowest[torch.isin(rows, best).any(1)] = -torch.inf  # each recurrence is used once
        num_failures = 0 if len(chosen) > before else num_failures + 1
        patience = max(1, PATIENCE * FEW // max(FEW, len(chosen)))
        required = 0.9 * required if num_failures and num_failures % patience == 0 else required
    return chosen


def filter_responses(
    signals: Float[Tensor, "m c h w"], coefficients: Float[Tensor, "y c 3 3"]
) -> Float[Tensor, "m y"]:
    """Return the response of each class's filter to each signal, scaled to an L2 norm of 1.

    The filter has -1 in place of the last coefficient, so that its own noise gives 0. The
    response is the sum of the positive outputs, as in the authors' code.
    """
    filters = coefficients.to(signals.dtype, copy=True)
    filters[:, :, -1, -1] = -1
    sizes = signals.square().sum((1, 2, 3), keepdim=True).sqrt()
    rows = max(1, MAX_NUMBERS // (len(filters) * signals[0, 0].numel()))
    parts = (signals / sizes).split(rows)
    return torch.cat([functional.conv2d(part, filters).relu().sum((2, 3)) for part in parts])


def _lowest_response(
    signals: Float[Tensor, "k c s h w"], coefficients: Float[Tensor, "y c 3 3"]
) -> Float[Tensor, " k"]:
    """Return each candidate's lowest response, averaged over starts; infinity without filters."""
    if len(coefficients) == 0 or len(signals) == 0:
        return torch.full((len(signals),), torch.inf)
    lowest = filter_responses(signals.transpose(1, 2).flatten(0, 1), coefficients).amin(1)
    return lowest.view(len(signals), -1).mean(1)


def _draw_stable(
    height: int, width: int, rng: torch.Generator
) -> tuple[Float[Tensor, "m 3 3"], Float[Tensor, "m s h w"]]:
    """Return random recurrences of one channel that neither grow nor vanish, and their signals."""
    drawn = torch.randn(CANDIDATES, 1, WINDOW, WINDOW, generator=rng)
    drawn[:, :, -1, -1] = 0
    drawn = drawn / drawn.sum((2, 3), keepdim=True)
    probe = _generate_signals(drawn, 1, min(height, PROBE), min(width, PROBE), rng)
    drawn = drawn[(probe.square().mean((2, 3)).sqrt() <= LARGEST)[0]]
    signals = _generate_signals(drawn, STARTS, height, width, rng)
    down, across = (height + 1) // 2, (width + 1) // 2
    last = signals[:, :, height - down :, width - across :]
    quarters = (
        signals[:, :, :down, :across],
        signals[:, :, :down, width - across :],
        signals[:, :, height - down :, :across],
        last,
    )
    sizes = torch.stack([quarter.square().mean((0, 2, 3)).sqrt() for quarter in quarters])
    fits = (signals.square().mean((2, 3)).sqrt() <= LARGEST).all(0)
    fits &= sizes.amax(0) <= UNEVEN * sizes.amin(0)
    fits &= last.flatten(2).std(2).amin(0) >= LEAST_CHANGE
    return drawn[fits, 0], signals[:, fits].transpose(0, 1)


def _generate_signals(
    drawn: Float[Tensor, "m 1 3 3"], num_starts: int, height: int, width: int, rng: torch.Generator
) -> Float[Tensor, "s m h w"]:
    """Return the signals of each recurrence from its own random starts."""
    shape = (num_starts * len(drawn), 1, height + CROP, width + CROP)
    start = torch.randn(shape, generator=rng)
    signals = run_recurrence(start, drawn.repeat(num_starts, 1, 1, 1))[:, 0, CROP:, CROP:]
    return signals.reshape(num_starts, len(drawn), height, width)


def _combine_channels(count: int, channels: int, rng: torch.Generator) -> Int64[Tensor, "k c"]:
    """Return rows of recurrences to combine, one per channel; none if there are too few."""
    if channels == 1 or count < channels:
        return torch.arange(count if channels == 1 else 0).view(-1, channels)
    return torch.rand(CANDIDATES, count, generator=rng).argsort(1)[:, :channels]
