"""The gradient norm: a record that was fitted pushes no more."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fl_sim.contracts.attacks import Evidence, MembershipAttack


@final
@dataclass(frozen=True)
class GradientNorm(MembershipAttack):
    """Score minus the norm of the gradient of a record's loss by the head's parameters.

    Needs the model itself, not only its answers. Guessing gives an AUC of 0.5.

    Source: Nasr et al. (2019), section 3, https://arxiv.org/abs/1812.00910, for the last layer.
    """

    @classmethod
    def variants(cls) -> dict[str, MembershipAttack]:
        """Return the forms that an audit tries."""
        return {"gradient norm": cls()}

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return minus the norm."""
        assert evidence.gradient_norm is not None
        return -evidence.gradient_norm.double()

    def missing(self, evidence: Evidence) -> str:
        """Return whether the norms are missing."""
        return "needs gradient norms; got none" if evidence.gradient_norm is None else ""


def head_gradient_norm(
    logits: Float[Tensor, "n y"], labels: Int64[Tensor, " n"], features: Float[Tensor, "n d"]
) -> Float[Tensor, " n"]:
    """Return the norm of each record's gradient by weight and bias of a linear head.

    In closed form: |p - e_y| sqrt(|h|^2 + 1), since the gradient is an outer product.
    """
    error = logits.double().softmax(1)
    error[torch.arange(len(labels)), labels] -= 1
    norm: Tensor = error.norm(dim=1) * (features.double().square().sum(1) + 1).sqrt()
    return norm


class HeadInputs:
    """Collects what the last linear layer of a model is given, while the model is called."""

    def __init__(self, model: nn.Module) -> None:
        self.batches: list[Tensor] = []
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        self._handle = linear[-1].register_forward_pre_hook(self._record) if linear else None

    def _record(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.batches.append(inputs[0].detach())

    def collect(self) -> Float[Tensor, "n d"] | None:
        """Return the inputs so far, and stop; None where there is no linear layer."""
        if self._handle is None:
            return None
        self._handle.remove()
        return torch.cat(self.batches)
