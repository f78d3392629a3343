"""Any network without batch statistics of many clients, vectorised over its trained parameters.

`torch.func` computes the gradients of all clients in one call of each operation: a convolution
becomes a grouped one, and a linear layer a batched product. Frozen layers and buffers are common to
all clients. It is meant for accelerators, of which the steps of a small client leave most idle; on
a CPU it is no faster for convolutions than one client after another.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from fl_sim.contracts import SgdConfig
from fl_sim.core.perturbation import as_floats
from fl_sim.models.architectures import Normalise
from fl_sim.models.batches import find_batch_norms
from fl_sim.models.foundation import Rescale
from fl_sim.models.parameters import flatten
from fl_sim.models.tuning import find_precision
from fl_sim.training.stacked_models import ParameterStack, Targets, stack_parameters

# PyTorch has no vectorised kernel of flash attention on a CPU.
ATTENTION = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
MOST_ROUNDING = 0.01  # of an output's norm, between batches of two sizes, in bfloat16 too
Outputs = tuple[Float[Tensor, "1 b"], Int64[Tensor, "1 b"]]


@dataclass(eq=False)
class StackedNetwork:
    """A network of every client.

    Attributes:
        front: Stages that prepare images, which have no parameters.
        body: The other stages, in training mode; its own trained parameters are not used.
        names: Names of the trained parameters in `body`.
        stacks: The trained parameters, in the order of the model.
    """

    front: nn.Module
    body: nn.Module
    names: list[str]
    stacks: list[ParameterStack]

    def narrow(self, count: int) -> "StackedNetwork":
        """Return the networks of the first `count` clients, in the same memory."""
        return replace(self, stacks=[stack.narrow(count) for stack in self.stacks])

    def take_step(self, records: Float[Tensor, "m ..."], targets: Targets, sgd: SgdConfig) -> None:
        """Take one SGD step per client, and write the outputs of the networks before it."""
        labels, weights, log_likelihoods, predictions = targets
        values = {name: s.values for name, s in zip(self.names, self.stacks, strict=True)}
        with torch.no_grad():
            batches = self.front(records).unflatten(0, (len(labels), -1))
        compute = vmap(grad(self._make_loss(sgd.label_smoothing), has_aux=True))
        with sdpa_kernel(ATTENTION):
            gradients, outputs = compute(values, batches, labels, weights)
        log_likelihoods.copy_(outputs[0])
        predictions.copy_(outputs[1])
        for name, stack in zip(self.names, self.stacks, strict=True):
            stack.apply_gradient(gradients[name], sgd)

    def _make_loss(self, smoothing: float) -> Callable[..., tuple[Float[Tensor, ""], Outputs]]:
        """Return the weighted loss of one client, with log-likelihoods and predictions."""

        def compute_loss(
            values: dict[str, Tensor],
            records: Float[Tensor, "b ..."],
            labels: Int64[Tensor, "1 b"],
            weights: Float[Tensor, "1 b"],
        ) -> tuple[Float[Tensor, ""], Outputs]:
            log_p = functional_call(self.body, values, (records,)).log_softmax(1)
            likelihoods = log_p.gather(1, labels.T).T
            if smoothing:
                likelihoods = (1 - smoothing) * likelihoods + smoothing * log_p.mean(1)
            return -(likelihoods * weights).sum(), (likelihoods, log_p.argmax(1)[None])

        return compute_loss


def stack_network(
    model: nn.Sequential, start: Float[Tensor, " p"], sgd: SgdConfig, count: int
) -> StackedNetwork:
    """Return the network of every client; see `stack_parameters`."""
    model.train()
    cut = len(list(takewhile(lambda stage: isinstance(stage, Normalise | Rescale), model)))
    body: Any = model[cut:]  # its stages keep their names
    body.precision = find_precision(model)
    names = [name for name, parameter in body.named_parameters() if parameter.requires_grad]
    return StackedNetwork(model[:cut], body, names, stack_parameters(model, start, sgd, count))


def explain_unbatchable(model: nn.Sequential, inputs: Shaped[Tensor, "n ..."]) -> str:
    """Return the reason why many clients cannot train a network as one batch; empty if they can.

    Two clients take a step with a record each, since only this shows whether all operations can be
    vectorised. Random layers such as dropout cannot: a client would draw other numbers than alone.
    Nor can a network whose output for a record depends on the others of its batch, since incomplete
    batches are padded. The network's parameters stay as they are.

    Args:
        model: The network.
        inputs: Records of the shape that it is trained on, of which the first is used.
    """
    if find_batch_norms(model):
        return "it normalises by the statistics of a batch"
    start = flatten(model)
    records = as_floats(inputs[:1].to(start.device)).repeat(2, *[1] * (inputs.dim() - 1))
    labels, weights = start.new_zeros(2, 1, 1, dtype=torch.int64), start.new_ones(2, 1, 1)
    targets = Targets(labels, weights, torch.empty_like(weights), torch.empty_like(labels))
    sgd, mode = SgdConfig(0.0, 0.0, 0.0, 1, 1, 0.0), model.training
    try:
        stack_network(model, start, sgd, 2).take_step(records, targets, sgd)
        mixes = _mixes_records(model, records[:1])
    except Exception as error:  # of PyTorch or of the user's own layers, of any class
        if "random operation" in str(error):
            return "it draws random numbers, as dropout does"
        return f"its step cannot be vectorised: {(str(error) or repr(error)).splitlines()[0]}"
    finally:
        model.train(mode)
    return "its output for a record depends on the others of the batch" if mixes else ""


@torch.no_grad()
def _mixes_records(model: nn.Sequential, record: Float[Tensor, "1 ..."]) -> bool:
    """Return whether the output for a record depends on another one beside it."""
    alone, beside = model(record), model(torch.cat([record, 1 - record]))[:1]
    return float((beside - alone).norm()) > MOST_ROUNDING * float(alone.norm())
