"""LT-IQR: the spread of a record's loss trace, which marks the records most at risk."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.attacks._shared.trajectories import get_trajectory, missing_trajectory
from fl_sim.contracts.attacks import Evidence, MembershipAttack, View, loss

QUARTILES = (0.25, 0.75)
MIN_ROUNDS = 3  # losses of a record: with fewer the quartiles are the extremes or nearly so


@final
@dataclass(frozen=True)
class LossTrace(MembershipAttack):
    """Score by the interquartile range of the loss under the models that the suspect sent.

    A record that is learned late, but is learned, has a wide range, and such records are the most
    vulnerable among the members. It ranks members by their risk rather than telling members from
    others, so its AUC (0.5 by guessing) may be on either side of 0.5. Rounds without the client
    are left out.

    Threat model: the server, which sees each client's update in every round; or the trainer, who
    asks which records to worry about.

    Source: Pollock et al. (2025), LT-IQR, https://arxiv.org/abs/2411.05743, with the models of the
    scored rounds in place of epochs and the usual quartiles, linearly interpolated.
    """

    label: ClassVar[str] = "LT-IQR"
    tier: ClassVar[int] = 1
    view: ClassVar[View] = "server"

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return the third quartile minus the first of each record's losses over rounds.

        NaN for a record whose client took part in fewer than three rounds.
        """
        trajectory = get_trajectory(evidence)
        losses = loss(trajectory.of_suspects(trajectory.client_margin))
        low, high = losses.nanquantile(losses.new_tensor(QUARTILES), 0)
        few = losses.isfinite().sum(0) < MIN_ROUNDS
        spread: Tensor = (high - low).masked_fill(few, torch.nan)
        return spread

    def missing(self, evidence: Evidence) -> str:
        """Return the reason if there is no trajectory, or a short one, or an empty string."""
        lacking = missing_trajectory(evidence)
        if lacking:
            return lacking
        rounds = len(get_trajectory(evidence).client_margin)
        return "" if rounds >= MIN_ROUNDS else f"needs {MIN_ROUNDS} rounds; got {rounds}"
