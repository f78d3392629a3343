"""What is seen after a round, and the numbers that every metric makes of it."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import (
    Decision,
    Failure,
    Metric,
    Observation,
    Row,
    Triggered,
    Update,
)
from fl_sim.contracts.validity import judged
from fl_sim.engine.crew import Crew
from fl_sim.engine.evaluation import Ending, last_round_rows
from fl_sim.engine.federation import Federation
from fl_sim.engine.orders import Tensors
from fl_sim.engine.privacy import privacy_rows
from fl_sim.engine.scores import logits
from fl_sim.metrics.accuracy import class_accuracies
from fl_sim.plugins import discover
from fl_sim.schedule import backdoors

if TYPE_CHECKING:
    from fl_sim.engine.loop import State


@dataclass(frozen=True, eq=False)
class Seen:
    """What a round left behind, beside the model."""

    updates: list[Update]
    decision: Decision | None
    failures: list[Failure]
    seconds: float
    ending: Ending | None = None
    cpu_seconds: float = float("nan")
    cpu_note: str = "the processor time was not measured"


@lru_cache
def metrics() -> tuple[Metric, ...]:
    """Return one of every metric there is."""
    found = discover("fl_sim.metrics", Metric)  # type: ignore[type-abstract]
    return tuple(cls() for cls in found)


def measure(federation: Federation, state: "State", crew: Crew, seen: Seen) -> list[Row]:
    """Return the numbers of a round; the model is scored in every `evaluation.every`-th only."""
    experiment = federation.experiment
    scored = state.round % experiment.evaluation.every == 0 or state.round == experiment.rounds
    wanted = [metric for metric in metrics() if scored or not metric.needs_scores]
    observed = observe(federation, state, crew, seen, scored)
    rows = [row for metric in wanted for row in metric.rows(observed)]
    rows += privacy_rows(federation, state, by_client=scored)
    rows += last_round_rows(federation, seen.ending, observed) if seen.ending else ()
    return [judged(row) for row in rows]


def observe(
    federation: Federation, state: "State", crew: Crew, seen: Seen, scored: bool = True
) -> Observation:
    """Score the test set and the pool by the global model."""
    pool, number = federation.pool, state.round
    kept = pool.audited & scored
    sets = federation.examined if scored else {}
    scores = crew.scores(state.parameters, state.buffers, sets)
    none = torch.empty(0, federation.dataset.num_classes)
    heads_only = federation.experiment.model.tune == "head"
    size = 4 * len(state.parameters) + sum(b.nbytes for b in state.buffers.values())
    return Observation(
        round=number,
        test_logits=scores.get("test", none),
        test_labels=federation.dataset.test_labels if scored else none[:, 0].long(),
        pool_logits=scores.get("pool", none),
        pool_labels=pool.labels[kept],
        pool_clients=pool.clients[kept],
        members=pool.members[kept],
        protected=pool.protected[kept],
        class_counts=federation.class_counts,
        protected_counts=federation.protected_counts,
        updates=tuple(seen.updates),
        attackers=federation.workshop.schedule.attackers(number),
        decision=seen.decision,
        personal=personal(federation, state) if number == federation.experiment.rounds else {},
        num_failures=len(seen.failures),
        seconds=seen.seconds,
        bytes_down=size * (len(seen.updates) + len(seen.failures)),
        bytes_up=size * len(seen.updates),
        triggered=_triggered(federation, scores),
        cpu_seconds=seen.cpu_seconds,
        cpu_note=seen.cpu_note,
        pool_features=sets["pool"].flatten(1) if scored and heads_only else None,
    )


def _triggered(federation: Federation, scores: Tensors) -> Triggered | None:
    """Return the scores of the test images with the trigger that attackers stamp."""
    for _, target in backdoors(federation.experiment):
        return Triggered(scores["triggered"], target) if "triggered" in scores else None
    return None


def personal(federation: Federation, state: "State") -> dict[int, Float[Tensor, " y"]]:
    """Return the accuracy by class of each client's own model, where clients have one.

    NaN for a class without a test image, and for all where a client's model diverged, or cannot
    be made of what the client keeps.
    """
    found, model = {}, federation.model
    for client, memory in sorted(state.memories.items()):
        behaviour = federation.workshop.schedule.behaviour(client, state.round)
        federation.workshop.slots.load(state.parameters, state.buffers)
        try:
            has_own = behaviour.personal(model, memory)
        except Exception:  # of any class: who keeps it may have forged it
            found[client] = torch.full((federation.dataset.num_classes,), torch.nan).double()
            continue
        if has_own:
            labels = federation.dataset.test_labels
            found[client] = class_accuracies(logits(model, federation.test_inputs), labels)
    return found
