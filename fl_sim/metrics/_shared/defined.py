"""Statistics over defined values: NaN means "not defined", is left out and noted."""

from collections.abc import Iterable

from jaxtyping import Bool, Float
from torch import Tensor

from fl_sim.contracts import Row


def select_defined(values: Float[Tensor, " k"]) -> Float[Tensor, " m"]:
    """Return the values that are not NaN, infinite ones included.

    >>> import torch
    >>> select_defined(torch.tensor([0.5, torch.nan, 0.25])).tolist()
    [0.5, 0.25]
    """
    return values[~values.isnan()]


def mean(values: Float[Tensor, " k"]) -> float:
    """Return the mean of the defined values in float64; NaN if there are none."""
    return float(select_defined(values).double().mean())


def select_pairs(
    first: Float[Tensor, " k"], second: Float[Tensor, " k"]
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Return the pairs of which both values are defined."""
    defined = ~(first.isnan() | second.isnan())
    return first[defined], second[defined]


def note_left_out(rows: Iterable[Row], out: Bool[Tensor, " k"], of: str) -> Iterable[Row]:
    """Yield the rows, with the number of the values `of` which were left out in their note."""
    number = int(out.sum())
    note = f"{number} of {len(out)} {of} left out: not defined" if number else ""
    for row in rows:
        yield row._replace(note="; ".join(part for part in (row.note, note) if part))
