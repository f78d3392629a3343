"""The gate of validity: an observation is judged before any number is made of it.

Whatever a metric says of a part that cannot be read, such as the logits of a model that diverged,
is struck: the number is NaN, the row is invalid, and its note says why. NaN means "not defined".
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
Flaws = dict[str, str]  # what cannot be read, by the name of its field: why not


def find_flaws(record: RoundRecord) -> Flaws:
    """Return which parts of an observation cannot be read, and why, by the field's name.

    These are logits that are not all finite, of the test set (`test_logits`), of the pool
    (`pool_logits`, with `pool_features`) and of the test images with a trigger (`triggered`).
    """
    found = {
        name: DIVERGED
        for name in ("test_logits", "pool_logits")
        if not bool(torch.isfinite(getattr(record, name)).all())
    }
    features = record.pool_features
    if features is not None and not bool(torch.isfinite(features).all()):
        found["pool_features"] = "the features are not all finite"
    if record.triggered is not None and not bool(torch.isfinite(record.triggered.logits).all()):
        found["triggered"] = DIVERGED
    return found


def gate(
    rows: Callable[[Any, RoundRecord], Iterable[Row]],
) -> Callable[[Any, RoundRecord], Iterator[Row]]:
    """Return the `rows` of a metric behind the gate.

    The metric is given zeros in the place of a part that cannot be read, so that it names its rows
    whatever the model did. Every row that it yields after it has read such a part is struck. A
    metric that returns a list has read all that it ever reads before its first row.
    """

    @wraps(rows)
    def behind_the_gate(metric: Any, record: RoundRecord) -> Iterator[Row]:
        read: list[str] = []  # why, in the order in which parts were read
        for row in rows(metric, _watch_record(record, find_flaws(record), read)):
            yield invalidate(row, read[0]) if read else mark_undefined(row)

    return behind_the_gate


def invalidate(row: Row, why: str) -> Row:
    """Return the row without its number, invalid, with the reason."""
    return row._replace(value=NAN, low=NAN, high=NAN, valid=False, note=why)


def mark_undefined(row: Row) -> Row:
    """Return the row, invalid where its number is not finite; a reason that it gives is kept."""
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
        # Its target may be read: that there is a backdoor is no claim about the model.
        quiet["triggered"] = _watch(record.triggered, zeros, {}, {"logits": DIVERGED}, read)
    return _watch(record, parts, quiet, {name: flaws[name] for name in parts}, read)


def _watch(
    whole: Whole, parts: dict[str, Any], quiet: dict[str, Any], why: Flaws, read: list[str]
) -> Whole:
    """Return a copy with other `parts`, which notes in `read` why a part that is read is flawed.

    Whoever asks for all fields at once, by `vars`, has read them all. `quiet` parts are replaced
    without being watched.
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
