"""The global model, checked after every step: a run ends at the round that spoilt it.

So no client of the next round is blamed for a model that it was sent broken, and the checkpoint
of the last good round stays.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fl_sim.backends.base import Backend
from fl_sim.contracts import AggregationResult, Row, Update
from fl_sim.core.errors import DivergedError
from fl_sim.core.perturbation import as_floats
from fl_sim.federation.federation import Federation
from fl_sim.models.batches import find_batch_norms
from fl_sim.rounds.server import RuleServer, Server
from fl_sim.rounds.state import State
from fl_sim.training.tasks import Tensors
from fl_sim.training.update_checks import find_buffer_fault, is_finite

Culprit = Callable[[], str]  # who likely did it, in words
FAR_RATIO = 1e3  # times that a step is longer than the updates in it, if the rule is to blame
NUM_PROBES = 8  # test images on which the new model is tried after every round


def check_step(
    round_num: int,
    parameters: Float[Tensor, " p"],
    buffers: Tensors,
    server: Server,
    culprit: Culprit,
) -> None:
    """Check what a round has made.

    Args:
        number: of the round.
        parameters, buffers: of the new model.
        server: which tells clients something beside it.
        culprit: says who likely did it; see `describe_likely_cause`.

    Raises:
        DivergedError: naming the round, where anything is not finite or out of range.
    """
    causes = [] if is_finite(parameters) else ["its parameters are not finite"]
    causes += [find_buffer_fault(name, values) for name, values in buffers.items()]
    if isinstance(server, RuleServer):
        told = server.rule.broadcast(server.state)
        causes += [f"{name!r} is not finite" for name, own in told.items() if not is_finite(own)]
    found = [cause for cause in causes if cause]
    if found:
        raise DivergedError(
            f"round {round_num}: the new model cannot be used: {found[0]}{culprit()}"
        )


def check_use(federation: Federation, backend: Backend, state: State, culprit: Culprit) -> None:
    """Check that the new model can be trained on: its scores and its gradient are finite.

    Both are those of a few test images. A model whose numbers are finite may be so far off that
    whoever trains it sends Inf. The gradient is not asked of models with batch normalisation:
    there it says nothing about training, which normalises by each batch.

    Args:
        federation: Holds the test images.
        backend: Holds a model to try it on.
        state: The state after the round.
        culprit: Says who likely did it.

    Raises:
        DivergedError: naming the round, where they are not finite.
    """
    inputs = as_floats(federation.test_inputs[:NUM_PROBES])
    if len(inputs) == 0:
        return
    trainer = backend.trainer
    trainer.model_buffers.load(state.parameters, state.buffers)
    model = trainer.model
    scores = model.eval()(inputs)
    usable = bool(scores.isfinite().all())
    if usable and not find_batch_norms(model):
        loss = functional.cross_entropy(scores, federation.dataset.test_labels[:NUM_PROBES])
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        slopes = torch.autograd.grad(loss, trained, allow_unused=True)
        usable = all(slope is None or is_finite(slope) for slope in slopes)
    if not usable:
        what = "its scores, or what would be trained on them, are not finite"
        raise DivergedError(f"round {state.round}: the new model cannot be used: {what}{culprit()}")


def check_loss(round_num: int, rows: list[Row], culprit: Culprit) -> None:
    """Check the loss on the test set, where the round was evaluated.

    Args:
        number: of the round.
        rows: of the round.
        culprit: says who likely did it.

    Raises:
        DivergedError: naming the round, where the loss is not finite. It holds the rows.
    """
    losses = [row.value for row in rows if row.metric == "loss" and row.client == -1]
    if not all(map(math.isfinite, losses)):
        raise DivergedError(
            f"round {round_num}: the loss of the new model is not finite{culprit()}", rows
        )


def describe_likely_cause(updates: list[Update], result: AggregationResult | None) -> str:
    """Return in words who moved the model most.

    That is the client whose share of the step times the length of its update is largest, or whose
    update is longest, where the rule does not say what became of each. Where the step is far
    longer than all of that, it is the rule itself.
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
    """Return how much of each update's length is in the step, as far as the rule says."""
    factors = torch.ones(count, dtype=torch.float64)
    for own in (result.shares, result.scales):
        if own is not None and bool(own.isfinite().all()) and bool((own != 0).any()):
            factors = factors * own.double().abs()
    return factors
