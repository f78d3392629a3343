"""Input of privacy accounting: the sampling of records, and the noisy sums released of them."""

from dataclasses import dataclass
from typing import Literal

Sampling = Literal["fixed", "poisson"]


@dataclass(frozen=True)
class Draw:
    """A random sample of clients, or of the images of a client.

    Attributes:
        eligible: Number that could be drawn: available clients with data, or images of a client.
        size: Number drawn; under Poisson sampling, the average number.
        sampling: `fixed`, a uniformly random set of `size`; or `poisson`, each one independently
            with probability `rate`.
    """

    eligible: int
    size: int
    sampling: Sampling = "fixed"

    @property
    def rate(self) -> float:
        """Probability that one of them is drawn."""
        return min(1.0, self.size / max(1, self.eligible))

    @property
    def expected(self) -> int:
        """Average number drawn."""
        return min(self.size, self.eligible)


NO_SAMPLING = Draw(eligible=1, size=1)  # everything takes part


@dataclass(frozen=True)
class Release:
    """A sum of the drawn contributions, with Gaussian noise.

    Attributes:
        noise_multiplier: Standard deviation of the noise, as a multiple of the largest norm of the
            contribution of one client, or one image.
        draw: Sample of contributions in the sum.
        count: Number of such sums, each with an independent draw.
    """

    noise_multiplier: float
    draw: Draw = NO_SAMPLING
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"{self.count} releases")


@dataclass(frozen=True)
class Releases:
    """All releases so far, with the delta and the unit of their privacy guarantee.

    Two runs are neighbours if the contributions of one client, or one image, are zero in one of
    them. The number of eligible ones is public.

    Attributes:
        releases: Releases in order.
        delta: Probability with which the bound epsilon may fail.
        protects: Unit of privacy: the whole participation of a client (`clients`), single `images`
            of a client, or a client's update towards the server (`local`).
    """

    releases: tuple[Release, ...]
    delta: float
    protects: Literal["clients", "images", "local"]
