"""Row of the tidy table of metrics, importable without PyTorch."""

from typing import NamedTuple


class Row(NamedTuple):
    """One value of the tidy table.

    `client` is -1 for a value about the whole federation. `group` names the subset of records or
    clients that the value is about. `low` and `high` bound a 95 % interval, if there is one.
    `valid` is False, with the reason in `note`, if the value must not be interpreted.
    """

    round: int
    metric: str
    value: float
    client: int = -1
    group: str = "all"
    low: float = float("nan")
    high: float = float("nan")
    valid: bool = True
    note: str = ""
