"""Logits of a model, computed in batches of one fixed size."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fl_sim.core.perturbation import as_floats

BATCH = 256  # fixed: the bits of a logit may depend on it


@torch.no_grad()
def compute_logits(model: nn.Module, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n y"]:
    """Return the logits of `inputs`; the model is left in evaluation mode."""
    model.eval()
    return torch.cat([model(as_floats(batch)) for batch in inputs.split(BATCH)])
