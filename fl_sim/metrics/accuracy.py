"""Accuracy and loss on clean test images, overall and on each client's own mix of classes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from fl_sim.contracts import Metric, Observation, Row
from fl_sim.metrics.groups import group_of
from fl_sim.metrics.intervals import clopper_pearson


def class_mixes(seen: Observation) -> Float[Tensor, "k y"]:
    """Return each client's shares of the classes; a client without records gets zeros."""
    counts = seen.class_counts.double()
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def class_means(
    values: Float[Tensor, " t"], labels: Int64[Tensor, " t"], num_classes: int
) -> Float[Tensor, " y"]:
    """Return the mean of `values` over each class; 0 for a class that does not occur."""
    sums = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, labels, values.double())
    return sums / labels.bincount(minlength=num_classes).clamp(min=1)


def client_accuracies(seen: Observation) -> Float[Tensor, " k"]:
    """Return the test accuracy under each client's own mix of classes.

    Exact for label skew: the accuracy on a client's distribution is the mean of the accuracies
    by class, weighted by the client's shares. The whole test set serves every client, so small
    clients are not measured on a handful of images.
    """
    right = (seen.test_logits.argmax(1) == seen.test_labels).double()
    by_class = class_means(right, seen.test_labels, seen.test_logits.shape[1])
    return class_mixes(seen) @ by_class


def protected_shares(seen: Observation) -> Float[Tensor, " k"]:
    """Return the share of each client's records that is protected."""
    return seen.protected_counts.double() / seen.class_counts.sum(1).clamp(min=1)


def client_groups(seen: Observation) -> list[str]:
    """Return each client's group: `attacker` if it misbehaves in this round, or else
    `protected` above three quarters of its records, `clean` below one quarter, `mixed` between.
    """
    shares = protected_shares(seen).tolist()
    return [group_of(share, client in seen.attackers) for client, share in enumerate(shares)]


@final
@dataclass(frozen=True)
class Accuracy(Metric):
    """Accuracy and loss of the global model on clean test images, overall and per client.

    Source: the usual definitions; per client as in LEAF (Caldas et al. 2018),
    https://arxiv.org/abs/1812.01097, by reweighting classes. Guessing gives 1 / classes.
    """

    def rows(self, seen: Observation) -> Iterator[Row]:
        """Yield accuracy and loss, and the accuracy of clients' own models."""
        losses = functional.cross_entropy(seen.test_logits, seen.test_labels, reduction="none")
        right = seen.test_logits.argmax(1) == seen.test_labels
        low, high = clopper_pearson(int(right.sum()), len(right))
        yield Row(seen.round, "accuracy", float(right.double().mean()), low=low, high=high)
        loss = float(losses.mean())
        diverged = "" if math.isfinite(loss) else "the model diverged"
        yield Row(seen.round, "loss", loss, valid=not diverged, note=diverged)
        yield from self._by_client(seen)
        for client, share in enumerate(protected_shares(seen).tolist()):
            yield Row(seen.round, "protected_share", share, client)
        mixes = class_mixes(seen)
        for client, by_class in sorted(seen.personal.items()):
            yield Row(seen.round, "personal_accuracy", float(mixes[client] @ by_class), client)

    def _by_client(self, seen: Observation) -> Iterator[Row]:
        """Yield each client's accuracy, flagged where it holds nothing."""
        accuracies, groups = client_accuracies(seen).tolist(), client_groups(seen)
        for client, size in enumerate(seen.class_counts.sum(1).tolist()):
            note = "" if size else "the client holds no records"
            yield Row(
                seen.round,
                "client_accuracy",
                accuracies[client],
                client,
                groups[client],
                valid=size > 0,
                note=note,
            )
