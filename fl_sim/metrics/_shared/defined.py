"""NaN means "not defined": it is left out of statistics, and said to be."""

from collections.abc import Iterable

from jaxtyping import Bool, Float
from torch import Tensor

from fl_sim.contracts import Row


def select_defined(values: Float[Tensor, " k"]) -> Float[Tensor, " m"]:
    """Return the values that are numbers; infinite ones are.

    >>> import torch
    >>> select_defined(torch.tensor([0.5, torch.nan, 0.25])).tolist()
    [0.5, 0.25]
    """
    return values[~values.isnan()]


def mean(values: Float[Tensor, " k"]) -> float:
    """Return the mean of the defined values in float64; NaN where there are none."""
    return float(select_defined(values).double().mean())


def select_pairs(
    first: Float[Tensor, " k"], second: Float[Tensor, " k"]
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Return the pairs of which both values are numbers."""
    kept = ~(first.isnan() | second.isnan())
    return first[kept], second[kept]


def note_left_out(rows: Iterable[Row], out: Bool[Tensor, " k"], of: str) -> Iterable[Row]:
    """Yield rows of statistics, saying how many `of` them were left out, where any were."""
    number = int(out.sum())
    note = f"{number} of {len(out)} {of} left out: not defined" if number else ""
    for row in rows:
        yield row._replace(note="; ".join(part for part in (row.note, note) if part))
