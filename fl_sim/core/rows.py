"""A row of the tidy table: metrics yield it, runs write it, and the report needs no PyTorch."""

from typing import NamedTuple


class Row(NamedTuple):
    """One number of the tidy table.

    `client` is -1 for a number about the whole federation; `group` names the subset of
    records or clients it is about; `low` and `high` bound a 95 % interval where there is one;
    `valid` is False, with the reason in `note`, where the number should not be read.
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
