"""Evaluation after the last round: contributions and benefits, if `Experiment.evaluation` asks."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationRule, Client, RoundRecord, Row
from fl_sim.core.device import on_device
from fl_sim.core.seeding import generator
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import Federation
from fl_sim.metrics import contribution
from fl_sim.metrics.accuracy import client_accuracies
from fl_sim.metrics.benefit import benefit_rows
from fl_sim.models import parameters
from fl_sim.models.scoring import compute_logits
from fl_sim.rounds.state import RoundOutcome
from fl_sim.rounds.stopping import is_over


def needs_updates(experiment: Experiment, round_num: int) -> bool:
    """Return whether a round has to keep its updates apart, for contributions."""
    may_be_last = round_num == experiment.rounds or experiment.stop is not None
    return experiment.evaluation.contributions != "none" and may_be_last


def evaluate_last_round(
    federation: Federation, outcome: RoundOutcome, record: RoundRecord
) -> Iterator[Row]:
    """Yield contributions and benefits after the last round, if the experiment asks for them."""
    evaluation = federation.experiment.evaluation
    if not is_over(federation.experiment, record.round, outcome.state.watched):
        return
    if evaluation.contributions != "none":
        yield from _measure_contributions(federation, outcome, record)
    if evaluation.alone is not None:
        holders = federation.experiment.data.num_clients
        clients = [client for client in federation.clients_with_data if client < holders]
        alone = torch.stack([train_alone(federation, evaluation.alone, i, record) for i in clients])
        together = client_accuracies(record)[torch.tensor(clients)]
        yield from benefit_rows(record.round, clients, together, alone)


def _measure_contributions(
    federation: Federation, outcome: RoundOutcome, record: RoundRecord
) -> Iterator[Row]:
    stack, model = outcome.round_updates.deltas, federation.model
    delivered = outcome.round_updates.clients
    deltas = None if stack is None else stack.cpu()
    if deltas is None or not len(delivered):
        note = "no updates" if not len(delivered) else "updates were added up where they were made"
        yield Row(record.round, "contribution_cosine", float("nan"), valid=False, note=note)
        return
    sizes = torch.tensor(federation.shards.sizes, dtype=torch.float64)
    weights = sizes[delivered]
    parameters.load_buffers(model, outcome.state.buffers)

    def compute_utility(step: Float[Tensor, " p"], num_examples: float) -> float:
        start = outcome.config.parameters
        load_solved(federation, start + step.to(start.dtype), int(num_examples))
        scores = compute_logits(model, federation.test_inputs)
        if not bool(torch.isfinite(scores).all()):
            return float("nan")
        return float((scores.argmax(1) == record.test_labels).double().mean())

    contributions = {
        "cosine": contribution.gradient_cosine(deltas, weights),
        "leave_one_out": contribution.leave_one_out(deltas, weights, compute_utility),
    }
    if federation.experiment.evaluation.contributions == "shapley":
        rng = generator(federation.experiment.seed, "round", record.round, "shapley")
        contributions["shapley"] = contribution.gtg_shapley(deltas, weights, compute_utility, rng)
    holds = record.class_counts.sum(1)[delivered] > 0  # without images there is no accuracy
    rewards = torch.where(holds, client_accuracies(record)[delivered], torch.nan)
    clients = delivered.tolist()
    yield from contribution.contribution_rows(record.round, clients, rewards, contributions)


def load_solved(federation: Federation, vector: Float[Tensor, " p"], num_examples: int) -> None:
    """Load parameters into the federation's model, after the rule has solved their statistics."""
    rule, model = federation.experiment.strategy, federation.model
    if isinstance(rule, AggregationRule):
        vector = rule.solve(vector, parameters.parameter_shapes(model), num_examples)
    parameters.load_flat(model, vector)


def train_alone(
    federation: Federation, behaviour: Client, client: int, record: RoundRecord
) -> Float[Tensor, ""]:
    """Return the accuracy, on its own mix of classes, of a client that trains without the others.

    It starts from the initial global model, and trains once per round of the run.
    """
    experiment, model = federation.experiment, federation.model
    parameters.load_flat(model, federation.start)
    parameters.load_buffers(model, federation.start_buffers)
    for round_num in range(1, record.round + 1):
        rng = generator(experiment.seed, "alone", client, "round", round_num)
        with on_device(federation.device):
            behaviour.train(model, federation.shard(client, round_num), rng)
    load_solved(federation, parameters.flatten(model).cpu(), federation.shards.sizes[client])
    logits = compute_logits(model, federation.find_test_inputs(client))
    trained = replace(record, test_logits=logits, domains=None, domain_logits=None)
    return client_accuracies(trained)[client]
