"""LiRA: membership inference by likelihood ratios."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts.attacks import Evidence, MembershipAttack, missing_references
from fl_sim.core.errors import require_above

MIN_REFERENCES = 2  # IN, or OUT, references per record, since a standard deviation needs two


@final
@dataclass(frozen=True)
class Lira(MembershipAttack):
    """Score by a likelihood ratio of normal distributions fitted to each record's references.

    `online` scores log N(phi; in) - log N(phi; out). `offline` has OUT references only and scores
    the one-sided test: the distance of phi above the OUT mean, in standard deviations.
    `offline_density` scores minus log N(phi; out) as the authors' script does, for comparison: it
    takes very hard records for members. Guessing gives an AUC of 0.5.

    Records with fewer than two references of a required kind have no score, nor have those whose
    references all agree, since their standard deviation is 0.

    Threat model: any client, who queries the global model and can train many reference models.

    Source: Carlini et al. (2022), algorithm 1 and section 6.1, https://arxiv.org/abs/2112.03570;
    the shrunken variance is the moderated one of Smyth (2004), equation 6,
    https://doi.org/10.2202/1544-6115.1027.

    Attributes:
        references: Kinds of references, and their use.
        variance: `pooled` over all records (from 16 references), `per_example` (from 64), or
            `shrunken` from the second towards the first.
        centre: Estimator of the centre of the normal distributions.
        prior_strength: Number of references that the pooled variance counts as, in `shrunken`.
    """

    tier: ClassVar[int] = 2
    calibrated: ClassVar[bool] = True
    references: Literal["online", "offline", "offline_density"] = "online"
    variance: Literal["pooled", "per_example", "shrunken"] = "pooled"
    centre: Literal["mean", "median"] = "mean"
    prior_strength: float = 16.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "prior_strength")

    @classmethod
    def variants(cls) -> dict[str, MembershipAttack]:
        """Return the variants that an audit runs, by name."""
        return {
            "LiRA online": cls("online", "pooled"),
            "LiRA offline": cls("offline", "shrunken"),  # pooled, it ranks as a plain offset does
            "LiRA per-example": cls("online", "per_example"),
            "LiRA shrunken": cls("online", "shrunken"),
        }

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return the log-likelihood ratio, or the offline score."""
        target = evidence.target.double()
        mean, deviation = self._fit(evidence.outside)
        if self.references == "offline":
            return (target - mean) / deviation
        outside = log_density(target, mean, deviation)
        if self.references == "offline_density":
            return -outside
        return log_density(target, *self._fit(evidence.inside)) - outside

    def missing(self, evidence: Evidence) -> str:
        """Return the reason if references are missing, or an empty string."""
        return missing_references(
            evidence, MIN_REFERENCES * (self.references == "online"), MIN_REFERENCES
        )

    def _fit(self, values: Float[Tensor, "m n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Return centre and standard deviation for each record; NaN values are left out."""
        counts = (~values.isnan()).sum(0)
        values = values.masked_fill(counts < MIN_REFERENCES, torch.nan)
        centre = values.nanmean(0) if self.centre == "mean" else _nanmedian(values)
        residuals = (values - centre)[~values.isnan()]
        total = residuals.var(correction=0) if len(residuals) else residuals.new_tensor(torch.nan)
        pooled = total.expand_as(centre)
        per_example = ((values - values.nanmean(0)).square()).nanmean(0)
        strength = self.prior_strength
        shrunken = (strength * pooled + counts * per_example) / (strength + counts)
        variances = {"pooled": pooled, "per_example": per_example, "shrunken": shrunken}
        deviation = variances[self.variance].sqrt()
        return centre, deviation.masked_fill(deviation == 0, torch.nan)


def log_density(
    value: Float[Tensor, " n"], mean: Float[Tensor, " n"], deviation: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return the log-density of a normal distribution."""
    distance = (value - mean) / deviation
    return -distance.square() / 2 - deviation.log() - math.log(2 * math.pi) / 2


def _nanmedian(values: Float[Tensor, "m n"]) -> Float[Tensor, " n"]:
    """Return the median over models; `nanmedian` would take the lower of the middle two."""
    return values.nanquantile(0.5, dim=0)
