"""Logits of a model, computed in batches of one fixed size."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fl_sim.core.device import device_of, on_device
from fl_sim.core.perturbation import as_floats

BATCH = 256  # fixed: the bits of a logit may depend on it


@torch.no_grad()
def compute_logits(model: nn.Module, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n y"]:
    """Return the logits, on the device of `inputs`; the model is left in evaluation mode."""
    model.eval()
    device = device_of(model)
    with on_device(device):
        batches = (batch.to(device) for batch in inputs.split(BATCH))
        return torch.cat([model(as_floats(batch)) for batch in batches]).to(inputs.device)
