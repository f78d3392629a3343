"""FedMIA: the other clients are the reference models."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.attacks._shared.trajectories import (
    needs_trajectory,
    require_cosines,
    require_trajectory,
)
from fl_sim.contracts.attacks import Evidence, MembershipAttack, View, loss
from fl_sim.core import serialization

FLOOR = 1e-8  # of a deviation over clients
MIN_OTHERS = 2  # other clients in a round: a deviation takes two
MAX_DEVIATIONS = 3.0  # deviations above the mean from which a value is left out


@final
@dataclass(frozen=True)
class FedMia(MembershipAttack):
    """Score how far the suspected client stands out from the others, round by round.

    In each round the signals of the other clients give a normal distribution, without values more
    than three deviations above their mean; the score is the mean over rounds of its distribution
    function at the suspect's signal. From 0 to 1; guessing gives an AUC of 0.5. It tells label
    skew as readily as membership: read it on matched outsiders. A round in which fewer than two
    other clients sent a finite signal does not count.

    Source: Zhu et al. (2024), equations 7 to 12, https://arxiv.org/abs/2402.06289.

    Attributes:
        signal: `loss` is minus the loss under the client's model (FedMIA-I); `cosine` is that of
            the client's update with minus the record's gradient (FedMIA-II).
    """

    tier: ClassVar[int] = 1
    view: ClassVar[View] = "server"
    signal: Literal["loss", "cosine"] = "loss"

    def __post_init__(self) -> None:
        serialization.check_types(self)

    @classmethod
    def variants(cls) -> dict[str, MembershipAttack]:
        """Return the forms that an audit tries."""
        return {"FedMIA-I": cls("loss"), "FedMIA-II": cls("cosine")}

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return the mean over rounds of the suspect's place among the others."""
        trajectory = require_trajectory(evidence)
        signal = (
            -loss(trajectory.client_margin)
            if self.signal == "loss"
            else require_cosines(evidence).double()
        )
        rounds, _, records = signal.shape
        own = trajectory.suspects.expand(rounds, 1, records)
        others = signal.scatter(1, own, torch.nan)
        others = others.masked_fill(~others.isfinite(), torch.nan)
        few = (~others.isnan()).sum(1, keepdim=True) < MIN_OTHERS
        mean, deviation = _fit(others)
        others = others.masked_fill(others > mean + MAX_DEVIATIONS * deviation, torch.nan)
        mean, deviation = _fit(others)
        place = (signal.gather(1, own) - mean) / deviation.clamp(min=FLOOR)
        distribution: Tensor = torch.special.ndtr(place).masked_fill(few, torch.nan)
        return distribution.squeeze(1).nanmean(0)

    def missing(self, evidence: Evidence) -> str:
        """Return whether the trajectory, or its cosines, are missing."""
        return needs_trajectory(evidence, cosine=self.signal == "cosine", clients=3)


def _fit(values: Float[Tensor, "r k n"]) -> tuple[Float[Tensor, "r 1 n"], Float[Tensor, "r 1 n"]]:
    mean = values.nanmean(1, keepdim=True)
    return mean, (values - mean).square().nanmean(1, keepdim=True).sqrt()
