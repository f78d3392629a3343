"""Linear heads of many clients, trained at once: closed-form gradients and batched products."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.engines.task import Task

CHUNK = 25  # number of clients at once


def train_heads(task: Task, flat: Tensor, inputs: Tensor, round_num: int) -> Tensor:
    """Return the mean of the clients' heads after a round, laid out as `flat` is.

    Args:
        task: Task.
        flat: Weights, then biases, of the global head.
        inputs: Inputs of all clients, one row per sample.
        round_num: Number of the round, from 1.
    """
    rows, num_classes = task.rows, task.federation.dataset.num_classes
    by_size = sorted(task.select_clients(round_num), key=lambda client: -len(rows[client]))
    total, weight = torch.zeros_like(flat), 0.0
    for clients in [by_size[at : at + CHUNK] for at in range(0, len(by_size), CHUNK)]:
        weights = flat[:-num_classes].view(num_classes, -1).repeat(len(clients), 1, 1)
        biases = flat[-num_classes:].repeat(len(clients), 1)
        _descend(task, weights, biases, inputs, clients, round_num)
        sizes = torch.tensor([float(len(rows[client])) for client in clients])
        total += torch.cat([sizes @ weights.flatten(1), sizes @ biases])
        weight += float(sizes.sum())
    return total / weight


def _descend(
    task: Task, weights: Tensor, biases: Tensor, inputs: Tensor, clients: list[int], round_num: int
) -> None:
    """Train in place; clients are sorted by falling size, so the active ones come first."""
    labels, rate = task.federation.pool.labels, task.learning_rate
    buffer = inputs.new_empty(len(clients) * task.batch_size, inputs.shape[1])
    wide = torch.empty_like(buffer, dtype=torch.float32)
    for samples, shares in _plan_steps(task, clients, round_num):
        active, rows = len(samples), samples.flatten()
        batch = torch.index_select(inputs, 0, rows, out=buffer[: len(rows)])
        batch = wide[: len(rows)].copy_(batch).view(active, samples.shape[1], -1)
        logits = torch.baddbmm(biases[:active, :, None], weights[:active], batch.mT)
        answers = labels[samples][:, None]
        errors = logits.softmax(1).scatter_add_(1, answers, logits.new_full(answers.shape, -1.0))
        errors *= shares[:, None]
        weights[:active].baddbmm_(errors, batch, alpha=-rate)
        biases[:active].sub_(errors.sum(2), alpha=rate)


def _plan_steps(task: Task, clients: list[int], round_num: int) -> list[tuple[Tensor, Tensor]]:
    """Return, for each step, the samples of each client and their share in its mean.

    The last batch of a client is padded by samples with a share of zero.
    """
    batches_by_client = [
        [task.rows[c][some] for some in task.iterate_batches(round_num, c, len(task.rows[c]))]
        for c in clients
    ]
    steps = []
    for step in range(len(batches_by_client[0])):
        batches = [planned[step] for planned in batches_by_client if step < len(planned)]
        shares = [torch.full((len(some),), 1 / len(some)) for some in batches]
        padded_shares = pad_sequence(shares, batch_first=True)
        steps.append((pad_sequence(batches, batch_first=True), padded_shares))
    return steps
