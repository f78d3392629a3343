"""What is seen after a round, and the numbers that every metric makes of it."""

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fl_sim.contracts import Failure, Metric, Observation, Row, Update
from fl_sim.engine.federation import Federation
from fl_sim.models import parameters
from fl_sim.perturbation import as_pixels
from fl_sim.plugins import discover

if TYPE_CHECKING:
    from fl_sim.engine.loop import State

BATCH = 256  # the same everywhere: the bits of a score may depend on it


@lru_cache
def metrics() -> tuple[Metric, ...]:
    """Return one of every metric there is."""
    found = discover("fl_sim.metrics", Metric)  # type: ignore[type-abstract]
    return tuple(cls() for cls in found)


def measure(
    federation: Federation,
    state: "State",
    updates: list[Update],
    failures: list[Failure],
    seconds: float,
) -> list[Row]:
    """Return the numbers of a round."""
    seen = observe(federation, state, updates, failures, seconds)
    return [row for metric in metrics() for row in metric.rows(seen)]


def observe(
    federation: Federation,
    state: "State",
    updates: list[Update],
    failures: list[Failure],
    seconds: float,
) -> Observation:
    """Score the test set and the pool by the global model."""
    model, pool, kept = federation.model, federation.pool, federation.pool.audited
    parameters.load_flat(model, state.parameters)
    parameters.load_buffers(model, state.buffers)
    size = 4 * len(state.parameters) + sum(b.nbytes for b in state.buffers.values())
    return Observation(
        round=state.round,
        test_logits=logits(model, federation.test_inputs),
        test_labels=federation.dataset.test_labels,
        pool_logits=logits(model, federation.inputs[kept]),
        pool_labels=pool.labels[kept],
        pool_clients=pool.clients[kept],
        members=pool.members[kept],
        protected=pool.protected[kept],
        class_counts=federation.class_counts(),
        protected_counts=federation.protected_counts(),
        updates=tuple(updates),
        attackers=federation.adversaries,
        decision=None,
        num_failures=len(failures),
        seconds=seconds,
        bytes_down=size * (len(updates) + len(failures)),
        bytes_up=size * len(updates),
    )


@torch.no_grad()
def logits(model: nn.Module, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n y"]:
    """Return the scores of `inputs`, in evaluation mode."""
    model.eval()
    return torch.cat(
        [
            model(as_pixels(batch) if batch.dtype == torch.uint8 else batch)
            for batch in inputs.split(BATCH)
        ]
    )
