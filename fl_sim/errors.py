"""What a user can get wrong: one line each, before any work, exit code 2."""


class RequestError(ValueError):
    """The request cannot be carried out as it stands; the message says what to change."""


class FieldError(RequestError):
    """A field of an experiment is unknown or out of range."""

    def __init__(self, field: str, allowed: str, got: object) -> None:
        super().__init__(f"{field}: {allowed}; got {got!r}")
        self.field, self.allowed, self.got = field, allowed, got

    def under(self, prefix: str) -> "FieldError":
        """Return the same error with `prefix.` before the field's name."""
        return FieldError(f"{prefix}.{self.field}", self.allowed, self.got)


class RunFailedError(RuntimeError):
    """A run broke off: too few valid updates, or a failure under the policy `raise`."""


def require(condition: bool, field: str, allowed: str, got: object) -> None:
    """Raise a `FieldError` unless `condition` holds."""
    if not condition:
        raise FieldError(field, allowed, got)
