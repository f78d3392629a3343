"""Autoregressive noise: a linear recurrence over pixels, one a class."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from fl_sim.contracts import Protection
from fl_sim.core import serialization
from fl_sim.core.errors import require
from fl_sim.core.perturbation import check_radius
from fl_sim.core.seeding import generator

WINDOW = 3
CROP = 4  # rows and columns at the start of the recurrence that are thrown away
STARTS = 3  # of which none may grow
LARGEST = 50 / (3 * 32 * 32) ** 0.5  # root mean square: the authors' L2 norm of 50, on CIFAR-10
LEAST_CHANGE = 0.2  # standard deviation that has to be left in the last quarter; this project's
UNEVEN = 2.0  # largest ratio of the root mean squares of two quarters; this project's
PROBE = 32  # side on which those that grow at once are found early
CANDIDATES = 64  # recurrences that are tried at once
PATIENCE = 30  # batches of candidates, after which a smaller response will do
FEW = 30  # classes; from there on patience falls, so that the search for all of them ends
MAX_CLASSES = 1000  # the filter of each is tried on those before it: time grows with the square
MAX_NUMBERS = 2**26  # that responses are computed from at once: 256 MiB


@final
@dataclass(frozen=True)
class Autoregressive(Protection):
    """Noise in which each pixel follows from its eight neighbours above and to the left (AR).

    The coefficients belong to a class and channel, and the start of the recurrence to an image:
    a convolution can tell classes apart although no two images carry the same noise. Needs no
    surrogate.

    Coefficients are drawn until they meet the two conditions of the authors' search, at the
    images' own size: from none of three random starts may the L2 norm exceed 50 (for 3 x 32 x 32
    pixels; in general a root mean square of 0.90 in each channel), and the filter of each earlier
    class answers to the noise, scaled to an L2 norm of 1, with at least 10 (for 32 x 32 pixels;
    in general in proportion to the root of the number of pixels). Two conditions are this
    project's: the root mean squares of the four quarters stay within a factor of two, and the
    last quarter keeps a standard deviation of 0.2 of a start's. Where many classes or few pixels
    leave no such coefficients in sight, the response asked for falls by a tenth at a time: after 30
    batches of 64 candidates, or fewer from the 30th class on, in proportion. The search for 200
    classes of 3 x 32 x 32 pixels takes about a minute; more than 1,000 classes are refused.

    Source: Sandoval-Segura et al. (2022), Autoregressive Perturbations, section 3,
    https://arxiv.org/abs/2206.03693. The paper ships coefficients for 3 channels; these are
    drawn by the seed, for any shape.

    Attributes:
        radius: root mean square of an image's noise, in pixels of [0, 1]; the paper's L2 norm
            of 1 on 3 x 32 x 32 pixels is 4.6 / 255. Single pixels go several times as far.
        response: least response of the filters of earlier classes, for 32 x 32 pixels; 10 as in
            the paper's coefficients for 10 classes, which has 3 for 100 classes.
    """

    radius: float = 4.6 / 255
    response: float = 10.0  # declared plainly: noise moved with it, and run ids shall too
    norm: ClassVar[Literal["linf", "l2"]] = "l2"
    short: ClassVar[str] = "ar"
    min_side: ClassVar[int] = WINDOW

    def __post_init__(self) -> None:
        serialization.check_types(self)
        check_radius(self.radius)
        require(self.response >= 0, "response", "at least 0", self.response)

    def check(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        """Refuse so many classes that coefficients for all of them are hours away."""
        super().check(image_shape, num_classes)
        require(num_classes <= MAX_CLASSES, "images", f"at most {MAX_CLASSES} classes", num_classes)

    def noise(
        self, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], seed: int
    ) -> Float[Tensor, "n c h w"]:
        """Run each image's recurrence, all images at once, and scale it to the radius."""
        count, channels, height, width = images.shape
        shape = (channels, height, width)
        own = draw_coefficients(int(labels.max()) + 1, shape, self.response, seed)
        rng = generator(seed, "autoregressive", "start")
        start = torch.randn(count, channels, height + CROP, width + CROP, generator=rng).double()
        signal = run_recurrence(start, own.double()[labels])[:, :, CROP:, CROP:].float()
        return self.radius * signal / signal.square().mean((1, 2, 3), keepdim=True).sqrt()


def run_recurrence(
    start: Float[Tensor, "n c h w"], coefficients: Float[Tensor, "n c 3 3"]
) -> Float[Tensor, "n c h w"]:
    """Return the signal: the first rows and columns as given, the rest from its neighbours.

    Each pixel is the sum of the 3 x 3 window that ends in it, times the coefficients, of which
    the last one is 0. Pixels of one anti-diagonal do not depend on each other and are found
    together.
    """
    height, width = start.shape[2:]
    signal, weights = start.flatten(2).clone(), coefficients.flatten(2).unsqueeze(2)
    edge = WINDOW - 1
    back = torch.arange(edge, -1, -1)
    window = (back[:, None] * width + back).flatten()
    for diagonal in range(2 * edge, height + width - 1):
        rows = torch.arange(max(edge, diagonal - width + 1), min(height - 1, diagonal - edge) + 1)
        pixels = rows * width + diagonal - rows
        signal[:, :, pixels] = (signal[:, :, pixels[:, None] - window] * weights).sum(3)
    return signal.view_as(start)


@lru_cache(maxsize=4)
def draw_coefficients(
    num_classes: int, image_shape: tuple[int, int, int], response: float, seed: int
) -> Float[Tensor, "y c 3 3"]:
    """Draw the coefficients of each class, for images of this shape.

    The coefficients of a class do not depend on how many classes follow. The result is shared
    between calls and must not be changed.
    """
    channels, height, width = image_shape
    rng = generator(seed, "autoregressive", "coefficients")
    wanted = response * (max(1, height - 2) * max(1, width - 2)) ** 0.5 / 30
    chosen = torch.empty(0, channels, WINDOW, WINDOW)
    waited = 0
    while len(chosen) < num_classes:
        drawn, signals = _draw_stable(height, width, rng)
        rows = _combine_channels(len(drawn), channels, rng)
        lowest, before = _lowest_response(signals[rows], chosen), len(chosen)
        while len(chosen) < num_classes and bool((lowest >= wanted).any()):
            own = rows[(lowest >= wanted).nonzero()[0]]
            chosen = torch.cat([chosen, drawn[own]])
            lowest = torch.minimum(lowest, _lowest_response(signals[rows], chosen[-1:]))
            lowest[torch.isin(rows, own).any(1)] = -torch.inf
        waited = 0 if len(chosen) > before else waited + 1
        patience = max(1, PATIENCE * FEW // max(FEW, len(chosen)))
        wanted = 0.9 * wanted if waited and waited % patience == 0 else wanted
    return chosen


def filter_responses(
    signals: Float[Tensor, "m c h w"], coefficients: Float[Tensor, "y c 3 3"]
) -> Float[Tensor, "m y"]:
    """Return the response of each class's filter to each signal, scaled to an L2 norm of 1.

    The filter has -1 in the place of the last coefficient and answers 0 to its own noise. The
    response is the sum of the positive answers, as in the authors' code.
    """
    filters = coefficients.to(signals.dtype, copy=True)
    filters[:, :, -1, -1] = -1
    sizes = signals.square().sum((1, 2, 3), keepdim=True).sqrt()
    rows = max(1, MAX_NUMBERS // (len(filters) * signals[0, 0].numel()))
    parts = (signals / sizes).split(rows)
    return torch.cat([functional.conv2d(own, filters).relu().sum((2, 3)) for own in parts])


def _lowest_response(
    signals: Float[Tensor, "k c s h w"], coefficients: Float[Tensor, "y c 3 3"]
) -> Float[Tensor, " k"]:
    """Return each candidate's lowest response, a mean over starts; infinity without filters."""
    if len(coefficients) == 0 or len(signals) == 0:
        return torch.full((len(signals),), torch.inf)
    answers = filter_responses(signals.transpose(1, 2).flatten(0, 1), coefficients).amin(1)
    return answers.view(len(signals), -1).mean(1)


def _draw_stable(
    height: int, width: int, rng: torch.Generator
) -> tuple[Float[Tensor, "m 3 3"], Float[Tensor, "m s h w"]]:
    """Draw recurrences of one channel; return those that neither grow nor die out, and signals."""
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
    sizes = torch.stack([own.square().mean((0, 2, 3)).sqrt() for own in quarters])
    fits = (signals.square().mean((2, 3)).sqrt() <= LARGEST).all(0)
    fits &= sizes.amax(0) <= UNEVEN * sizes.amin(0)
    fits &= last.flatten(2).std(2).amin(0) >= LEAST_CHANGE
    return drawn[fits, 0], signals[:, fits].transpose(0, 1)


def _generate_signals(
    drawn: Float[Tensor, "m 1 3 3"], num_starts: int, height: int, width: int, rng: torch.Generator
) -> Float[Tensor, "s m h w"]:
    """Return what each recurrence makes of some random starts of its own."""
    shape = (num_starts * len(drawn), 1, height + CROP, width + CROP)
    start = torch.randn(shape, generator=rng)
    signals = run_recurrence(start, drawn.repeat(num_starts, 1, 1, 1))[:, 0, CROP:, CROP:]
    return signals.reshape(num_starts, len(drawn), height, width)


def _combine_channels(count: int, channels: int, rng: torch.Generator) -> Int64[Tensor, "k c"]:
    """Return rows of recurrences to be used together, one a channel; none where there are few."""
    if channels == 1 or count < channels:
        return torch.arange(count if channels == 1 else 0).view(-1, channels)
    return torch.rand(CANDIDATES, count, generator=rng).argsort(1)[:, :channels]
