"""Errors and warnings about requests: one line each, raised before any work, exit code 2."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

LONGEST = 200  # characters of a value that a message shows


class RequestError(ValueError):
    """The request cannot be carried out; the message names the change that is needed."""


class FieldError(RequestError):
    """A field of an experiment is unknown or out of range."""

    def __init__(self, field: str, allowed: str, got: object) -> None:
        super().__init__(f"{field}: {allowed}; got {shorten(got)}")
        self.field, self.allowed, self.got = field, allowed, got

    def with_prefix(self, prefix: str) -> "FieldError":
        """Return the same error with `prefix.` before the field's name."""
        return FieldError(f"{prefix}.{self.field}", self.allowed, self.got)


class UnknownFieldError(FieldError):
    """A field does not exist; the message lists the known fields and suggests the closest."""

    def __init__(self, field: str, owner: str, known: Sequence[str], name: str = "") -> None:
        name = name or field.rpartition(".")[2]
        allowed = f"{owner} has {', '.join(known) or 'no fields'}"
        self.words = f"{allowed}; no field {shorten(name)}{suggest(name, known)}"
        ValueError.__init__(self, f"{field}: {self.words}")
        self.field, self.allowed, self.got = field, allowed, name
        self.owner, self.known = owner, known

    def with_prefix(self, prefix: str) -> "FieldError":
        """Return the same error with `prefix.` before the field's name."""
        return UnknownFieldError(f"{prefix}.{self.field}", self.owner, self.known, str(self.got))


class RequestWarning(UserWarning):
    """The request can be carried out, but its result is likely to disappoint."""


class RunFailedError(RuntimeError):
    """A run ended early: too few valid updates, or a failure under the policy `raise`."""


class DivergedError(RunFailedError):
    """The global model diverged; `rows` are the metrics of its last round, if there are any."""

    def __init__(self, message: str, rows: Iterable[Any] = ()) -> None:
        super().__init__(message)
        self.rows = list(rows)


def require(condition: bool, field: str, allowed: str, got: object) -> None:
    """Raise a `FieldError` unless `condition` holds."""
    if not condition:
        raise FieldError(field, allowed, got)


@contextmanager
def prefix_errors(prefix: str) -> Iterator[None]:
    """Put `prefix.` before the field of a `FieldError` that is raised inside."""
    try:
        yield
    except FieldError as error:
        raise error.with_prefix(prefix) from None


def require_above(owner: object, bound: int, *fields: str, or_none: bool = False) -> None:
    """Raise a `FieldError` for the first of these fields that is not above `bound`."""
    for field in fields:
        value: Any = getattr(owner, field)
        fits = (or_none and value is None) or value > bound
        require(fits, field, f"above {bound}" + ", or None" * or_none, value)


def require_at_least(owner: object, bound: int, *fields: str, or_none: bool = False) -> None:
    """Raise a `FieldError` for the first of these fields that is below `bound`."""
    for field in fields:
        value: Any = getattr(owner, field)
        fits = (or_none and value is None) or value >= bound
        require(fits, field, f"at least {bound}" + ", or None" * or_none, value)


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'dataset'?` if a known word is close, else an empty string.

    >>> suggest("datset", ["dataset", "path"]), suggest("zzz", ["dataset"])
    ("; did you mean 'dataset'?", '')
    """
    words = list(known)
    by_lower = {known_word.lower(): known_word for known_word in words}
    close = get_close_matches(word, words, 1) or [
        by_lower[match] for match in get_close_matches(word.lower(), by_lower, 1)
    ]
    return f"; did you mean {close[0]!r}?" if close else ""


def shorten(value: object) -> str:
    """Return the `repr` of a value for a message, cut after `LONGEST` characters."""
    try:
        whole = repr(value)
    except Exception:  # from the `repr` of any class, or for an integer of 5,000 digits
        return f"a {type(value).__name__} that cannot be printed"
    return whole if len(whole) <= LONGEST else f"{whole[:LONGEST]}..."
