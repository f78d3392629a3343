"""Invalidates metrics that were computed from logits or features that are not finite.

Such rows, of a model that diverged for example, get the value NaN, `valid` False and the reason
in `note`. Other rows with a value of NaN are marked "not defined".
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, TypeVar

import torch

from fl_sim.contracts.nouns import Row
from fl_sim.contracts.round_record import RoundRecord

DIVERGED = "the model diverged"
UNDEFINED = "not defined"
UNTESTED = "no test image of its classes"
NAN = float("nan")

Whole = TypeVar("Whole")
Flaws = dict[str, str]  # reason for invalidity by field name


def find_flaws(record: RoundRecord) -> Flaws:
    """Return the fields of a record whose tensors are not all finite, with the reasons."""
    logits = {name: getattr(record, name) for name in ("test_logits", "pool_logits")}
    if record.domain_logits is not None:
        logits["domain_logits"] = record.domain_logits
    flaws = {n: DIVERGED for n, values in logits.items() if not bool(torch.isfinite(values).all())}
    features = record.pool_features
    # A sum takes a fifteenth of the time, and cannot overflow: features have 16 bits.
    if features is not None and not math.isfinite(float(features.sum(dtype=torch.float32))):
        flaws["pool_features"] = "the features are not all finite"
    if record.triggered is not None and not bool(torch.isfinite(record.triggered.logits).all()):
        flaws["triggered"] = DIVERGED
    return flaws


def gate(
    rows: Callable[[Any, RoundRecord], Iterable[Row]],
) -> Callable[[Any, RoundRecord], Iterator[Row]]:
    """Return the `rows` method of a metric with checks of validity.

    The metric is given zeros instead of values that are not finite, so that it always yields the
    same rows. Every row that is yielded after it has read such a field is invalidated. A metric
    that returns a list has read everything before its first row.
    """

    @wraps(rows)
    def checked_rows(metric: Any, record: RoundRecord) -> Iterator[Row]:
        read: list[str] = []  # reasons of flawed fields, in the order in which they were read
        for row in rows(metric, _watch_record(record, find_flaws(record), read)):
            yield invalidate(row, read[0]) if read else mark_undefined(row)

    return checked_rows


def invalidate(row: Row, why: str) -> Row:
    """Return the row as invalid, without its value and with the reason."""
    return row._replace(value=NAN, low=NAN, high=NAN, valid=False, note=why)


def mark_undefined(row: Row) -> Row:
    """Return the row, as invalid if its value is not finite; an existing note is kept."""
    if math.isfinite(row.value):
        return row
    bare = row._replace(low=NAN, high=NAN) if math.isnan(row.value) else row
    return bare._replace(valid=False, note=row.note or UNDEFINED)


def _watch_record(record: RoundRecord, flaws: Flaws, read: list[str]) -> RoundRecord:
    if not flaws:
        return record
    parts: dict[str, Any] = {
        name: torch.zeros_like(getattr(record, name)) for name in flaws if name != "triggered"
    }
    quiet: dict[str, Any] = {}
    if "triggered" in flaws and record.triggered is not None:
        zeros = {"logits": torch.zeros_like(record.triggered.logits)}
        # The target may be read: a backdoor is set by the experiment, not measured on the model.
        quiet["triggered"] = _watch(record.triggered, zeros, {}, {"logits": DIVERGED}, read)
    return _watch(record, parts, quiet, {name: flaws[name] for name in parts}, read)


def _watch(
    whole: Whole, parts: dict[str, Any], quiet: dict[str, Any], why: Flaws, read: list[str]
) -> Whole:
    """Return a copy with replaced `parts` that appends the reason to `read` when one is read.

    Access to `__dict__`, as by `vars`, counts as reading all of them. `quiet` parts are replaced
    without being watched. The copy is of a subclass, so that `isinstance` still holds.
    """

    def attribute(self: object, name: str) -> Any:
        if name in parts:
            read.append(why[name])
        elif name == "__dict__":
            read.extend(why.values())
        return object.__getattribute__(self, name)

    kind: Any = type(type(whole).__name__, (type(whole),), {"__getattribute__": attribute})
    copy = object.__new__(kind)
    object.__getattribute__(copy, "__dict__").update(vars(whole) | parts | quiet)
    watched: Whole = copy
    return watched
