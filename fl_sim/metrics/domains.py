"""Accuracy of the global model by domain, if clients are of several domains."""

from collections.abc import Iterator

from fl_sim.contracts import RoundRecord, Row
from fl_sim.contracts.validity import mark_undefined
from fl_sim.metrics._shared.defined import mean
from fl_sim.metrics._shared.intervals import clopper_pearson
from fl_sim.metrics.accuracy import client_accuracies


def domain_rows(record: RoundRecord) -> Iterator[Row]:
    """Yield the accuracy on the test images of each domain, and gaps between domains.

    The accuracy of domain i has the group `domain_i`; guessing gives 1 / classes.
    `domain_accuracy_gap` is the highest minus the lowest of them, on the same images, so that it
    measures the domains alone. `fairness_domain_gap` is the highest minus the lowest of the mean
    client accuracies of a domain. Each client is tested on its own mix of classes, so that it
    contains the differences between these mixes. 0 is even. Nothing is yielded without domains.
    """
    if record.domain_logits is None or record.domains is None:
        return
    accuracies = client_accuracies(record)
    holders = record.class_counts.sum(1) > 0
    means, values = [], []
    for domain, logits in enumerate(record.domain_logits):
        right = int((logits.argmax(1) == record.test_labels).sum())
        count = len(record.test_labels)
        low, high = clopper_pearson(right, count)
        value = right / count if count else float("nan")
        values.append(value)
        yield mark_undefined(
            Row(record.round, "domain_accuracy", value, -1, f"domain_{domain}", low, high)
        )
        means.append(mean(accuracies[(record.domains == domain) & holders]))
    for name, numbers in (("domain_accuracy_gap", values), ("fairness_domain_gap", means)):
        known = [value for value in numbers if value == value]
        gap = max(known) - min(known) if len(known) > 1 else float("nan")
        note = "" if len(known) > 1 else "no two domains with defined accuracies"
        yield mark_undefined(Row(record.round, name, gap, note=note))
