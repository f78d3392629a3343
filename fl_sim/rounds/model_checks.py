"""Checks of the global model after every step, which end the run in the round that broke it.

No client of the next round is then blamed for a broken model that it received, and the checkpoint
of the last good round stays.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.backends.base import Backend
from fl_sim.contracts import AggregationResult, Row, Update
from fl_sim.core.device import move, on_device
from fl_sim.core.errors import DivergedError
from fl_sim.core.perturbation import as_floats
from fl_sim.federation.federation import Federation
from fl_sim.models.batches import find_batch_norms
from fl_sim.rounds.server import RuleServer, Server
from fl_sim.rounds.state import State
from fl_sim.training.tasks import Tensors
from fl_sim.training.update_checks import find_buffer_fault, is_finite

Culprit = Callable[[], str]  # describes the likely cause; see `describe_likely_cause`
FAR_RATIO = 1e3  # a step that exceeds all updates by this factor is the rule's own fault
NUM_PROBES = 8  # test images on which the new model is tried after every round


def check_step(
    round_num: int,
    parameters: Float[Tensor, " p"],
    buffers: Tensors,
    server: Server,
    culprit: Culprit,
) -> None:
    """Check the global model, and the vectors that the rule broadcasts with it.

    Args:
        round_num: Number of the round.
        parameters: Parameters of the new model.
        buffers: Buffers of the new model, by name.
        server: The server after the step.
        culprit: Describes the likely cause.

    Raises:
        DivergedError: If anything is not finite, or out of range.
    """
    causes = [] if is_finite(parameters) else ["its parameters are not finite"]
    causes += [find_buffer_fault(name, values) for name, values in buffers.items()]
    if isinstance(server, RuleServer):
        rule, rule_state = server.reveal_rule()
        received = rule.broadcast(rule_state)
        causes += [f"{name!r} is not finite" for name, v in received.items() if not is_finite(v)]
    causes = [cause for cause in causes if cause]
    if causes:
        raise DivergedError(
            f"round {round_num}: the new model cannot be used: {causes[0]}{culprit()}"
        )


def check_use(federation: Federation, backend: Backend, state: State, culprit: Culprit) -> None:
    """Check that the new model can be trained: its scores and its gradient are finite.

    Both are computed on a few test images. A model whose parameters are finite may still be so far
    off that its clients send Inf. The gradient of a model with batch normalisation is not checked:
    in evaluation mode it says nothing about training, which normalises by each batch.

    Args:
        federation: Holds the test images.
        backend: Holds a model to load the parameters into.
        state: The state after the round.
        culprit: Describes the likely cause.

    Raises:
        DivergedError: If they are not finite.
    """
    inputs = as_floats(federation.test_inputs[:NUM_PROBES])
    if len(inputs) == 0:
        return
    trainer = backend.trainer
    trainer.model_tensors.load(state.parameters, state.buffers)
    with on_device(trainer.device):
        labels = federation.dataset.test_labels[:NUM_PROBES]
        usable = _is_usable(trainer.model, *move((inputs, labels), trainer.device))
    if not usable:
        what = "its scores, or what would be trained on them, are not finite"
        raise DivergedError(f"round {state.round}: the new model cannot be used: {what}{culprit()}")


def _is_usable(
    model: nn.Module, inputs: Float[Tensor, "n ..."], labels: Int64[Tensor, " n"]
) -> bool:
    """Return whether scores, and their gradient without batch normalisation, are finite."""
    scores = model.eval()(inputs)
    usable = bool(scores.isfinite().all())
    if usable and not find_batch_norms(model):
        loss = functional.cross_entropy(scores, labels)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        usable = all(gradient is None or is_finite(gradient) for gradient in gradients)
    return usable


def check_loss(round_num: int, rows: list[Row], culprit: Culprit) -> None:
    """Check the loss on the test set, if the round was evaluated.

    Args:
        round_num: Number of the round.
        rows: The measurements of the round.
        culprit: Describes the likely cause.

    Raises:
        DivergedError: If the loss is not finite; the error holds the rows.
    """
    losses = [row.value for row in rows if row.metric == "loss" and row.client == -1]
    if not all(map(math.isfinite, losses)):
        raise DivergedError(
            f"round {round_num}: the loss of the new model is not finite{culprit()}", rows
        )


def describe_likely_cause(updates: list[Update], result: AggregationResult | None) -> str:
    """Describe the client that moved the model most, as the end of an error message.

    It is the client with the largest share of the step times the norm of its update, or with the
    longest update if the rule gives no shares. If the step is far longer than all of these, the
    cause is the rule itself.
    """
    if not updates:
        return ""
    norms = torch.tensor([update.norm for update in updates], dtype=torch.float64)
    parts = norms if result is None else norms * _compute_factors(result, len(norms))
    if result is not None:
        step = float(result.step.double().norm())
        if step > FAR_RATIO * float(parts.sum()):
            return f"; most likely by the rule itself, whose step has length {step:.3g}"
    update = updates[int(parts.argmax())]
    return f"; most likely by client {update.client}, whose update has length {update.norm:.3g}"


def _compute_factors(result: AggregationResult, count: int) -> Float[Tensor, " n"]:
    """Return the factor of each update's norm in the step, as far as the rule gives it."""
    factors = torch.ones(count, dtype=torch.float64)
    for values in (result.shares, result.scales):
        if values is not None and bool(values.isfinite().all()) and bool((values != 0).any()):
            factors = factors * values.double().abs()
    return factors
