"""What is measured once, after the last round, where `Experiment.evaluation` asks for it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Client, Observation, Row, Update
from fl_sim.engine.federation import Federation
from fl_sim.engine.measure import logits
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


def last_round_rows(
    federation: Federation,
    before: Float[Tensor, " p"],
    updates: Sequence[Update],
    seen: Observation,
) -> Iterator[Row]:
    """Yield contributions and benefits after the last round, where they are asked for.

    Args:
        federation: the run; its model may be loaded with anything afterwards, but has to hold
            the round's buffers now.
        before: global parameters that the round started from.
        updates: of the round, in client order.
        seen: what the metrics see after the round.
    """
    asked = federation.experiment.evaluation
    if seen.round < federation.experiment.rounds:
        return
    if asked.contributions != "none":
        yield from _contributions(federation, before, updates, seen)
    if asked.alone is not None:
        clients = [i for i, size in enumerate(federation.shard_sizes()) if size]
        alone = torch.stack([accuracy_alone(federation, asked.alone, i, seen) for i in clients])
        together = client_accuracies(seen)[torch.tensor(clients)]
        yield from benefit_rows(seen.round, clients, together, alone)


def _contributions(
    federation: Federation,
    before: Float[Tensor, " p"],
    updates: Sequence[Update],
    seen: Observation,
) -> Iterator[Row]:
    deltas = [update.delta for update in updates if update.delta is not None]
    if not deltas or len(deltas) < len(updates):
        note = "no updates" if not updates else "updates were added up where they were made"
        yield Row(seen.round, "contribution_cosine", float("nan"), valid=False, note=note)
        return
    clients = [update.client for update in updates]
    stack = torch.stack(deltas)
    weights = torch.tensor(federation.shard_sizes(), dtype=torch.float64)[torch.tensor(clients)]

    def utility(step: Float[Tensor, " p"]) -> float:
        parameters.load_flat(federation.model, before + step.to(before.dtype))
        right = logits(federation.model, federation.test_inputs).argmax(1) == seen.test_labels
        return float(right.double().mean())

    found = {
        "cosine": gradient_cosine(stack, weights),
        "leave_one_out": leave_one_out(stack, weights, utility),
    }
    if federation.experiment.evaluation.contributions == "shapley":
        rng = generator(federation.experiment.seed, "round", seen.round, "shapley")
        found["shapley"] = gtg_shapley(stack, weights, utility, rng)
    rewards = client_accuracies(seen)[torch.tensor(clients)]
    yield from contribution_rows(seen.round, clients, rewards, found)


def accuracy_alone(
    federation: Federation, behaviour: Client, client: int, seen: Observation
) -> Float[Tensor, ""]:
    """Return the accuracy, on its own mix of classes, of a client that trains by itself.

    It starts from the global start, and trains once for every round of the run.
    """
    experiment, model = federation.experiment, federation.model
    parameters.load_flat(model, federation.start)
    parameters.load_buffers(model, federation.start_buffers)
    shard = federation.shard(client)
    for number in range(1, experiment.rounds + 1):
        rng = generator(experiment.seed, "alone", client, "round", number)
        behaviour.train(model, replace(shard, round=number), rng)
    by_itself = replace(seen, test_logits=logits(model, federation.test_inputs))
    return client_accuracies(by_itself)[client]
