"""What is measured once, after the last round, where `Experiment.evaluation` asks for it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Client, Observation, Row
from fl_sim.engine.federation import Federation
from fl_sim.engine.orders import Tensors
from fl_sim.engine.scores import logits
from fl_sim.experiment import Experiment
from fl_sim.metrics.accuracy import client_accuracies
from fl_sim.metrics.benefit import benefit_rows
from fl_sim.metrics.contribution import (
    contribution_rows,
    gradient_cosine,
    gtg_shapley,
    leave_one_out,
)
from fl_sim.models import parameters
from fl_sim.seeding import generator


@dataclass(frozen=True, eq=False)
class Ending:
    """What a last round left behind, for what is measured once.

    Attributes:
        before: global parameters that the round started from.
        clients: who delivered, in order.
        rows: their updates; None where they were added up.
        buffers: of the model after the round.
    """

    before: Float[Tensor, " p"]
    clients: list[int]
    rows: Float[Tensor, "n p"] | None
    buffers: Tensors


def needs_updates(experiment: Experiment, number: int) -> bool:
    """Return whether round `number` has to keep its updates apart."""
    return experiment.evaluation.contributions != "none" and number == experiment.rounds


def last_round_rows(federation: Federation, ending: Ending, seen: Observation) -> Iterator[Row]:
    """Yield contributions and benefits after the last round, where they are asked for."""
    asked = federation.experiment.evaluation
    if seen.round < federation.experiment.rounds:
        return
    if asked.contributions != "none":
        yield from _contributions(federation, ending, seen)
    if asked.alone is not None:
        holders = federation.experiment.data.num_clients
        clients = [client for client in federation.able if client < holders]
        alone = torch.stack([accuracy_alone(federation, asked.alone, i, seen) for i in clients])
        together = client_accuracies(seen)[torch.tensor(clients)]
        yield from benefit_rows(seen.round, clients, together, alone)


def _contributions(federation: Federation, ending: Ending, seen: Observation) -> Iterator[Row]:
    updates, model = ending.rows, federation.model
    if updates is None or not ending.clients:
        note = "no updates" if not ending.clients else "updates were added up where they were made"
        yield Row(seen.round, "contribution_cosine", float("nan"), valid=False, note=note)
        return
    sizes = torch.tensor(federation.workshop.sizes, dtype=torch.float64)
    weights = sizes[torch.tensor(ending.clients)]
    parameters.load_buffers(model, ending.buffers)

    def utility(step: Float[Tensor, " p"]) -> float:
        parameters.load_flat(model, ending.before + step.to(ending.before.dtype))
        scores = logits(model, federation.test_inputs)
        if not bool(torch.isfinite(scores).all()):
            return float("nan")
        return float((scores.argmax(1) == seen.test_labels).double().mean())

    found = {
        "cosine": gradient_cosine(updates, weights),
        "leave_one_out": leave_one_out(updates, weights, utility),
    }
    if federation.experiment.evaluation.contributions == "shapley":
        rng = generator(federation.experiment.seed, "round", seen.round, "shapley")
        found["shapley"] = gtg_shapley(updates, weights, utility, rng)
    clients = torch.tensor(ending.clients)
    holds = seen.class_counts.sum(1)[clients] > 0  # whoever has no images has no accuracy
    rewards = torch.where(holds, client_accuracies(seen)[clients], torch.nan)
    yield from contribution_rows(seen.round, ending.clients, rewards, found)


def accuracy_alone(
    federation: Federation, behaviour: Client, client: int, seen: Observation
) -> Float[Tensor, ""]:
    """Return the accuracy, on its own mix of classes, of a client that trains by itself.

    It starts from the global start, and trains once for every round of the run.
    """
    experiment, model = federation.experiment, federation.model
    parameters.load_flat(model, federation.start)
    parameters.load_buffers(model, federation.start_buffers)
    for number in range(1, experiment.rounds + 1):
        rng = generator(experiment.seed, "alone", client, "round", number)
        behaviour.train(model, federation.shard(client, number), rng)
    by_itself = replace(seen, test_logits=logits(model, federation.test_inputs))
    return client_accuracies(by_itself)[client]
