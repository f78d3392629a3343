"""Membership inference by the gradient norm: gradients of fitted records are small."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fl_sim.contracts.attacks import Evidence, MembershipAttack


@final
@dataclass(frozen=True)
class GradientNorm(MembershipAttack):
    """Score by minus the norm of the gradient of a record's loss by the head's parameters.

    Guessing gives an AUC of 0.5.

    Threat model: any client, who holds the global model itself and not only its predictions.

    Source: Nasr et al. (2019), section 3, https://arxiv.org/abs/1812.00910, for the last layer.
    """

    label: ClassVar[str] = "gradient norm"

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return minus the gradient norm of each record."""
        assert evidence.gradient_norm is not None
        return -evidence.gradient_norm.double()

    def missing(self, evidence: Evidence) -> str:
        """Return the reason if the norms are missing, or an empty string."""
        return "needs gradient norms; got none" if evidence.gradient_norm is None else ""


def head_gradient_norm(
    logits: Float[Tensor, "n y"], labels: Int64[Tensor, " n"], features: Float[Tensor, "n d"]
) -> Float[Tensor, " n"]:
    """Return the norm of each record's gradient by weight and bias of a linear head.

    Closed form: |p - e_y| sqrt(|h|^2 + 1), since the gradient is an outer product.
    """
    error = logits.double().softmax(1)
    error[torch.arange(len(labels)), labels] -= 1
    norm: Tensor = error.norm(dim=1) * (features.double().square().sum(1) + 1).sqrt()
    return norm


class HeadInputs:
    """Collects the inputs of a model's last linear layer while the model is called."""

    def __init__(self, model: nn.Module) -> None:
        self.batches: list[Tensor] = []
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        self._handle = linear[-1].register_forward_pre_hook(self._record) if linear else None

    def _record(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.batches.append(inputs[0].detach())

    def collect(self) -> Float[Tensor, "n d"] | None:
        """Return the collected inputs, on the CPU; None without a linear layer."""
        if self._handle is None:
            return None
        self._handle.remove()
        return torch.cat(self.batches).float().cpu()
