"""A clock for tests of durations."""


class HandClock:
    """A clock that stands still until its seconds, `now`, are changed."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now
