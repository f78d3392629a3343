"""FedMIA: membership inference with the other clients' models as references."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.attacks._shared.trajectories import get_cosines, get_trajectory, missing_trajectory
from fl_sim.contracts.attacks import Evidence, MembershipAttack, View, loss

FLOOR = 1e-8  # lower bound of a standard deviation over clients
MIN_OTHERS = 2  # other clients per round, since a standard deviation needs two
MAX_DEVIATIONS = 3.0  # values further above the mean are outliers and left out


@final
@dataclass(frozen=True)
class FedMia(MembershipAttack):
    """Score by how far the suspected client stands out from the others, averaged over rounds.

    In each round a normal distribution is fitted to the signals of the other clients, without
    values more than three standard deviations above their mean; the score is the mean over rounds
    of its distribution function at the suspect's signal, from 0 to 1. Guessing gives an AUC of
    0.5. It detects label skew as readily as membership: read it on matched non-members. Rounds in
    which fewer than two other clients sent a finite signal are left out.

    Threat model: the server, which sees each client's update in every round.

    Source: Zhu et al. (2024), equations 7 to 12, https://arxiv.org/abs/2402.06289.

    Attributes:
        signal: `loss` is minus the loss under the client's model (FedMIA-I); `cosine` is the
            cosine of the client's update with minus the record's gradient (FedMIA-II).
    """

    tier: ClassVar[int] = 1
    view: ClassVar[View] = "server"
    signal: Literal["loss", "cosine"] = "loss"

    @classmethod
    def variants(cls) -> dict[str, MembershipAttack]:
        """Return the variants that an audit runs, by name."""
        return {"FedMIA-I": cls("loss"), "FedMIA-II": cls("cosine")}

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return the mean over rounds of the suspect's quantile among the other clients."""
        trajectory = get_trajectory(evidence)
        use_loss = self.signal == "loss"
        signal = -loss(trajectory.client_margin) if use_loss else get_cosines(evidence).double()
        rounds, _, records = signal.shape
        suspects = trajectory.suspects.expand(rounds, 1, records)
        others = signal.scatter(1, suspects, torch.nan)
        others = others.masked_fill(~others.isfinite(), torch.nan)
        few = (~others.isnan()).sum(1, keepdim=True) < MIN_OTHERS
        mean, deviation = _fit(others)
        others = others.masked_fill(others > mean + MAX_DEVIATIONS * deviation, torch.nan)
        mean, deviation = _fit(others)
        standardised = (signal.gather(1, suspects) - mean) / deviation.clamp(min=FLOOR)
        quantile: Tensor = torch.special.ndtr(standardised).masked_fill(few, torch.nan)
        return quantile.squeeze(1).nanmean(0)

    def missing(self, evidence: Evidence) -> str:
        """Return the reason if the trajectory or its cosines are missing, or an empty string."""
        return missing_trajectory(evidence, cosine=self.signal == "cosine", clients=3)


def _fit(values: Float[Tensor, "r k n"]) -> tuple[Float[Tensor, "r 1 n"], Float[Tensor, "r 1 n"]]:
    mean = values.nanmean(1, keepdim=True)
    return mean, (values - mean).square().nanmean(1, keepdim=True).sqrt()
