"""The client of closed-form heads: statistics of its features, with noise if asked for."""

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fl_sim.contracts import Client, Release, Releases, Shard
from fl_sim.core.errors import require, require_above, require_at_least
from fl_sim.core.perturbation import as_floats
from fl_sim.models.closed_form import explain_missing_head, find_statistics_head

MOST = 1e30
TAKEN = "statistics.releases"  # name of the number of rounds so far in a client's memory


@final
@dataclass(frozen=True)
class StatisticsClient(Client):
    """Send class shares, class sums and second moments of the features, without training.

    For `model.tune` of `ncm`, `ridge`, `lda` or `fedcof`, each of which selects this client and the
    rule that solves the statistics for a head. With one vector x and one label y per example, the
    client sends the means over its examples of e_y, of e_y x^T, and of x x^T or, where the head
    needs no second moments, of |x|^2. They are accumulated in float64: the mean over
    clients, weighted by their examples, is that of the pooled examples up to rounding, whatever the
    partition.

    With `noise_multiplier` z, Gaussian noise makes the statistics differentially private for single
    images. Each x is first clipped to |x| <= R. The removal of one image changes the sum of e_y by
    1, that of e_y x^T by |x| <= R, and that of x x^T by |x x^T| = |x|^2 <= R^2 in Frobenius norm,
    hence its upper triangle by no more. Divided by 1, R and R^2, the three sums together change by
    at most sqrt(3), and noise of deviation sqrt(3) z on each coordinate of the divided sums is the
    Gaussian mechanism. Noise on the upper triangle alone keeps the matrix symmetric. It is one
    release per client, whatever the number of classes; clients hold different images, so that no
    other release counts. The number of a client's examples is public, and so is the frozen front.

    Source: the statistics of FedNCM (Legate et al., 2023, https://arxiv.org/abs/2306.03937), Fed3R
    (Fani et al., 2024, https://arxiv.org/abs/2406.01116) and AFL (He et al., 2025,
    https://arxiv.org/abs/2405.16240); noise on X^T X and X^T Y as in sufficient statistics
    perturbation, Wang (2018), AdaSSP, https://arxiv.org/abs/1803.02596. The noise comes from the
    run's seed and can be removed by those who know it: a simulation of privacy, not privacy.

    Attributes:
        clipping_norm: Largest L2 norm of the features of an image, R; None leaves them as they are,
            which only clients without noise may.
        noise_multiplier: Standard deviation of the noise as a multiple of the largest contribution
            of one image, z; 0 adds none.
        delta: Probability with which the epsilon guarantee may fail.
    """

    sends_statistics: ClassVar[bool] = True
    clipping_norm: float | None = None
    noise_multiplier: float = 0.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "clipping_norm", or_none=True)
        require_at_least(self, 0, "noise_multiplier")
        for name in ("clipping_norm", "noise_multiplier"):
            wanted = getattr(self, name) or 0.0
            require(wanted <= MOST, name, f"at most {MOST:g}, whose square is a number", wanted)
        require(0 < self.delta < 1, "delta", "between 0 and 1", self.delta)
        bounded = self.clipping_norm is not None or self.noise_multiplier == 0
        allowed = "a number where noise_multiplier is above 0: noise needs a bound on features"
        require(bounded, "clipping_norm", allowed, self.clipping_norm)

    def cannot_train(self, model: nn.Module) -> str:
        """Return the reason why a network has no place for statistics, or an empty string."""
        return explain_missing_head(model)

    @torch.no_grad()
    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Add the statistics of the shard to the parameters that hold them; nothing is trained.

        Returns:
            NaN for the loss and the accuracy of training, which are not measured.
        """
        head = find_statistics_head(model)
        assert head is not None
        features = self.clip_features(as_floats(shard.inputs).flatten(1).double())
        statistics = head.compute_statistics(features, shard.labels)
        for name, parameter in head.statistics().items():
            noise = self._draw_noise(name, parameter, len(shard), rng)
            parameter.add_(statistics[name] + noise)
        shard.memory[TAKEN] = shard.memory.get(TAKEN, torch.zeros((), dtype=torch.int64)) + 1
        return {"train_loss": math.nan, "train_accuracy": math.nan}

    def clip_features(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return feature vectors scaled down to `clipping_norm`, where they are longer."""
        if self.clipping_norm is None:
            return features
        norms = torch.linalg.vector_norm(features, dim=1, keepdim=True)
        clipped: Tensor = features / (norms / self.clipping_norm).clamp(min=1)
        return clipped

    def _draw_noise(
        self, name: str, like: Tensor, num_examples: int, rng: torch.Generator
    ) -> Tensor | float:
        """Return the noise on one of the means, or zero."""
        if self.noise_multiplier == 0:
            return 0.0
        assert self.clipping_norm is not None
        power = {"counts": 0, "sums": 1, "squares": 2}[name]
        largest = float(self.clipping_norm**power)  # contribution of one image to this sum
        deviation = self.noise_multiplier * math.sqrt(3) * largest / num_examples
        return torch.randn(like.shape, generator=rng, dtype=torch.float64).mul_(deviation)

    def releases(self, num_examples: int, memory: dict[str, Tensor]) -> Releases | None:
        """Return one noisy release of all statistics; None without clipping."""
        if self.clipping_norm is None:
            return None
        count = int(memory.get(TAKEN, 0))
        return Releases((Release(self.noise_multiplier, count=count),), self.delta, "images")
