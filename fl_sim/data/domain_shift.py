"""Domain shift between clients: each has images of a domain, in training and in its test."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from fl_sim.contracts import DomainTransform
from fl_sim.core import serialization
from fl_sim.core.errors import require, require_at_least
from fl_sim.data.domains.rotation import Rotation


@dataclass(frozen=True)
class DomainShift:
    """The domain of each client, and the change of images that makes it.

    Images are changed after they were dealt out to clients and before any protection, so that
    noise is made on what the client holds. The accuracy of a client, and all that is computed from
    it, is measured on the test images as its domain has them; the accuracy of the global model
    stays that on the test images as they are.

    Client i is of domain i modulo the number of domains. Of several transforms the first makes the
    first domain, the second the next, and so on in turn; each domain draws an angle, a colour or a
    strength of its own by the seed.

    Attributes:
        transforms: Kinds of change, as in `fl-sim list domains`.
        num_domains: Number of domains; None: one for each client. Evaluations take as many times
            as long.
        keep_first: Whether the images of the first domain stay as they are.
    """

    transforms: tuple[DomainTransform, ...] = (Rotation(),)
    num_domains: int | None = 4
    keep_first: bool = True

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(len(self.transforms) > 0, "transforms", "at least one", self.transforms)
        require_at_least(self, 1 + self.keep_first, "num_domains", or_none=True)

    def count_domains(self, num_clients: int) -> int:
        """Return the number of domains of a federation with so many clients."""
        return self.num_domains or num_clients

    def find_transform(self, domain: int) -> DomainTransform | None:
        """Return the change that makes a domain, or None if its images stay as they are."""
        place = domain - self.keep_first
        return None if place < 0 else self.transforms[place % len(self.transforms)]

    def apply(
        self, images: UInt8[Tensor, "n c h w"], domain: int, seed: int
    ) -> UInt8[Tensor, "n c h w"]:
        """Return images as a domain has them."""
        transform = self.find_transform(domain)
        return images if transform is None else transform.apply(images, domain, seed)

    def apply_by_domain(
        self, images: UInt8[Tensor, "n c h w"], domains: Int64[Tensor, " n"], seed: int
    ) -> UInt8[Tensor, "n c h w"]:
        """Return images of several domains, each as its own has it."""
        changed = images.clone()
        for domain in domains.unique().tolist():
            rows = (domains == domain).nonzero().squeeze(1)
            changed[rows] = self.apply(images[rows], domain, seed)
        return changed


def assign_domains(num_clients: int, num_domains: int) -> Int64[Tensor, " k"]:
    """Return the domain of each client."""
    return torch.arange(num_clients) % num_domains
