"""Accuracy and loss on clean test images, overall and on each client's class distribution."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from fl_sim.contracts import Metric, RoundRecord, Row
from fl_sim.contracts.validity import DIVERGED, UNTESTED
from fl_sim.metrics._shared.groups import assign_group
from fl_sim.metrics._shared.intervals import clopper_pearson


def class_shares(record: RoundRecord) -> Float[Tensor, "k y"]:
    """Return each client's class distribution; zeros for a client without records."""
    counts = record.class_counts.double()
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def class_means(
    values: Float[Tensor, " t"], labels: Int64[Tensor, " t"], num_classes: int
) -> Float[Tensor, " y"]:
    """Return the mean of `values` over each class; NaN for a class without records."""
    sums = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, labels, values.double())
    return sums / labels.bincount(minlength=num_classes)


def class_accuracies(
    logits: Float[Tensor, "t y"], labels: Int64[Tensor, " t"]
) -> Float[Tensor, " y"]:
    """Return the accuracy on each class; guessing gives 1 / classes.

    NaN for a class without a test image; all NaN for a model whose logits are not all finite.
    """
    accuracies = class_means((logits.argmax(1) == labels).double(), labels, logits.shape[1])
    return accuracies if bool(torch.isfinite(logits).all()) else accuracies * torch.nan


def reweight_accuracy(
    by_class: Float[Tensor, " y"], mixes: Float[Tensor, "*k y"]
) -> Float[Tensor, "*k"]:
    """Return the mean accuracy over each class distribution of `mixes`.

    NaN if the accuracy on any of its classes is not defined, since leaving the class out would
    give the accuracy on another distribution. NaN for an empty distribution.
    """
    # Classes with a share of 0 have no effect, whether or not they are defined.
    unknown = ((mixes > 0) & by_class.isnan()).any(-1) | ~mixes.any(-1)
    return (mixes @ by_class.nan_to_num(0.0)).masked_fill(unknown, torch.nan)


def client_accuracies(record: RoundRecord) -> Float[Tensor, " k"]:
    """Return the test accuracy on each client's class distribution; guessing gives 1 / classes.

    Exact for label skew: the accuracy on a client's distribution is the mean of the accuracies
    by class, weighted by the client's shares. The whole test set is used for every client, so
    that small clients are not evaluated on a handful of images, and as the client's domain has it
    if there is a domain shift. Where test images have owners (`test_clients`), it is instead the
    accuracy on the client's own. NaN for a client without records, with a class without test
    images or without own ones, and for all clients if the model diverged.
    """
    if record.test_clients is not None:
        return _own_accuracies(record, record.test_clients)
    shares, labels = class_shares(record), record.test_labels
    if record.domains is None or record.domain_logits is None:
        return reweight_accuracy(class_accuracies(record.test_logits, labels), shares)
    by_domain = [
        reweight_accuracy(class_accuracies(logits, labels), shares)
        for logits in record.domain_logits
    ]
    return torch.stack(by_domain)[record.domains, torch.arange(len(shares))]


def _own_accuracies(record: RoundRecord, test_clients: Int64[Tensor, " t"]) -> Float[Tensor, " k"]:
    """Return the accuracy of each client on the test images that it owns, in its domain."""
    rows = (test_clients >= 0).nonzero().squeeze(1)
    owners, logits = test_clients[rows], record.test_logits[rows]
    if record.domains is not None and record.domain_logits is not None:
        logits = record.domain_logits[record.domains[owners], rows]
    right = logits.argmax(1) == record.test_labels[rows]
    accuracies = class_means(right.double(), owners, record.num_clients)
    accuracies[record.class_counts.sum(1) == 0] = torch.nan
    return accuracies if bool(torch.isfinite(logits).all()) else accuracies * torch.nan


def explain_undefined(record: RoundRecord, client: int) -> str:
    """Return the reason why a client's accuracy is not defined."""
    held = record.class_counts[client] > 0
    if not bool(held.any()):
        return "the client holds no records"
    if record.test_clients is not None:
        tested = bool((record.test_clients == client).any())
        return DIVERGED if tested else "no test image of its owners"
    untested = int((held & ~record.tested).sum())
    if not untested:
        return DIVERGED
    count = int(held.sum())
    return UNTESTED if untested == count else f"no test image of {untested} of its {count} classes"


def protected_shares(record: RoundRecord) -> Float[Tensor, " k"]:
    """Return the share of each client's records that is protected."""
    return record.protected_counts.double() / record.class_counts.sum(1).clamp(min=1)


def client_groups(record: RoundRecord) -> list[str]:
    """Return each client's group: `attacker` if it misbehaves in this round, else by the share of
    protected records: `protected` above 75 %, `clean` below 25 %, `mixed` in between.
    """
    shares = protected_shares(record).tolist()
    return [assign_group(share, client in record.attackers) for client, share in enumerate(shares)]


@final
@dataclass(frozen=True)
class Accuracy(Metric):
    """Accuracy and loss of the global model on clean test images, overall and per client.

    Source: the usual definitions; per client as in LEAF (Caldas et al. 2018),
    https://arxiv.org/abs/1812.01097, by reweighting classes. Guessing gives 1 / classes.
    """

    def rows(self, record: RoundRecord) -> Iterator[Row]:
        """Yield accuracy and loss of the global model, and accuracies of personal models.

        Rows that need no logits of the global model come first: see `Metric`.
        """
        for client, share in enumerate(protected_shares(record).tolist()):
            yield Row(record.round, "protected_share", share, client)
        yield from self._personal(record)
        losses = functional.cross_entropy(record.test_logits, record.test_labels, reduction="none")
        right = record.test_logits.argmax(1) == record.test_labels
        low, high = clopper_pearson(int(right.sum()), len(right))
        yield Row(record.round, "accuracy", float(right.double().mean()), low=low, high=high)
        yield Row(record.round, "loss", float(losses.mean()))
        yield from self._by_client(record)

    def _personal(self, record: RoundRecord) -> Iterator[Row]:
        """Yield the accuracy of each personal model on its client's class distribution."""
        mixes = class_shares(record)
        for client, by_class in sorted(record.personal.items()):
            value = float(reweight_accuracy(by_class, mixes[client]))
            note = "" if value == value else explain_undefined(record, client)
            yield Row(record.round, "personal_accuracy", value, client, valid=not note, note=note)

    def _by_client(self, record: RoundRecord) -> Iterator[Row]:
        """Yield the global model's accuracy per client, invalid if it is not defined."""
        groups = client_groups(record)
        for client, value in enumerate(client_accuracies(record).tolist()):
            note = "" if value == value else explain_undefined(record, client)
            yield Row(
                record.round,
                "client_accuracy",
                value,
                client,
                groups[client],
                valid=not note,
                note=note,
            )
