"""What an accountant of privacy has to know: what was drawn, how, and what was released of it."""

from dataclasses import dataclass
from typing import Literal

Sampling = Literal["fixed", "poisson"]


@dataclass(frozen=True)
class Draw:
    """How some were drawn out of all that could have been.

    Attributes:
        eligible: how many could have been drawn: clients that were there and hold data, or the
            images of a client.
        size: how many are drawn; under Poisson sampling, how many on average.
        sampling: `fixed`, a set of `size`, each set as likely as any other; or `poisson`, each
            one by itself with the probability `rate`.
    """

    eligible: int
    size: int
    sampling: Sampling = "fixed"

    @property
    def rate(self) -> float:
        """Probability with which one of them is drawn."""
        return min(1.0, self.size / max(1, self.eligible))

    @property
    def expected(self) -> int:
        """How many are drawn on average."""
        return min(self.size, self.eligible)


NO_SAMPLING = Draw(eligible=1, size=1)  # nobody is left to chance


@dataclass(frozen=True)
class Release:
    """A sum with Gaussian noise, of the contributions of whoever was drawn.

    Attributes:
        noise_multiplier: standard deviation of the noise, as a multiple of the longest
            contribution that one client, or one image, can make.
        draw: of the contributions.
        count: how many such sums were released, each of a draw of its own.
    """

    noise_multiplier: float
    draw: Draw = NO_SAMPLING
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"{self.count} releases")


@dataclass(frozen=True)
class Releases:
    """All that was released so far, about whom, and with what probability it may say more.

    Two runs are neighbours, between which epsilon tells apart, where the contributions of one
    client, or of one image, are zero in one of them. How many could be drawn is public.

    Attributes:
        releases: in the order in which they were made.
        delta: probability with which epsilon may fail.
        protects: a client's whole participation (`clients`), single `images` of a client, or a
            client's update from the server itself (`local`).
    """

    releases: tuple[Release, ...]
    delta: float
    protects: Literal["clients", "images", "local"]
