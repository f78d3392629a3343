"""The scores of a model, in batches that are the same everywhere."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fl_sim.core.perturbation import as_floats

BATCH = 256  # the same everywhere: the bits of a score may depend on it


@torch.no_grad()
def compute_logits(model: nn.Module, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n y"]:
    """Return the scores of `inputs`, in evaluation mode."""
    model.eval()
    return torch.cat([model(as_floats(batch)) for batch in inputs.split(BATCH)])
