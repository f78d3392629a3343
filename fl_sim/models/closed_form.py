"""Heads that are solved from statistics of clients' features, instead of being trained.

The trained part of the network is one layer: a linear head and, as further parameters, the
statistics that clients send. A client sets the statistics to those of its images, so that its
update consists of them; rules, attacks and noise work on this update as on any other. The rule of
the run then solves the mean of the statistics for the head.
"""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.core.errors import FieldError, require
from fl_sim.core.sums import use_one_thread

LOGIT_SCALE = 100.0  # of cosines with class embeddings, as CLIP's
SECOND_MOMENTS = ("ridge", "lda")  # values of `model.tune` whose clients send second moments
HEAD = ("weight", "bias")


class StatisticsHead(nn.Linear):
    """A linear layer in double precision, zero at first, and the statistics that solve for it.

    All statistics are means over examples, so that they do not tell the number of examples.

    Attributes:
        counts: Share of each class.
        sums: Features of the examples of each class, summed and divided by the number of all.
        squares: Second moments of the features, the upper triangle of a symmetric matrix, row by
            row; or only their trace, the mean squared length of a feature vector.
    """

    def __init__(self, width: int, num_classes: int, second_moments: bool) -> None:
        super().__init__(width, num_classes, dtype=torch.float64)
        size = width * (width + 1) // 2 if second_moments else 1
        self.counts = nn.Parameter(torch.zeros(num_classes, dtype=torch.float64))
        self.sums = nn.Parameter(torch.zeros(num_classes, width, dtype=torch.float64))
        self.squares = nn.Parameter(torch.zeros(size, dtype=torch.float64))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the layer to zero; `nn.Linear` would draw it."""
        self.weight.zero_()
        self.bias.zero_()

    def forward(self, features: Float[Tensor, "n ..."]) -> Float[Tensor, "n y"]:
        """Return the logits, in the type of the features."""
        wide = features.flatten(1).double()
        return functional.linear(wide, self.weight, self.bias).to(features.dtype)

    def statistics(self) -> dict[str, nn.Parameter]:
        """Return the parameters that hold statistics, by name."""
        return {"counts": self.counts, "sums": self.sums, "squares": self.squares}

    def compute_statistics(
        self, features: Float[Tensor, "n ..."], labels: Int64[Tensor, " n"]
    ) -> dict[str, Tensor]:
        """Return the statistics of examples, by name, accumulated in double precision."""
        wide, count = features.flatten(1).double(), len(labels)
        one_hot = functional.one_hot(labels, len(self.counts)).double()
        squares = wide.square().sum()[None]
        if len(self.squares) > 1:
            squares = take_upper_triangle(_multiply_by_transpose(wide))
        sums = one_hot.T @ wide
        return {"counts": one_hot.mean(0), "sums": sums / count, "squares": squares / count}


def _multiply_by_transpose(rows: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """Return the sum of the outer products of rows."""
    if not rows.is_cpu:
        return rows.T @ rows
    array = rows.numpy()
    with use_one_thread():  # numpy multiplies a matrix by its own transpose at half cost
        return torch.from_numpy(array.T @ array)


class CosineHead(nn.Linear):
    """A head of class embeddings: its logits are 100 times their cosines with the features."""

    def __init__(self, embeddings: Float[Tensor, "y d"]) -> None:
        super().__init__(embeddings.shape[1], len(embeddings), bias=False, device="meta")
        self.weight = nn.Parameter(functional.normalize(embeddings.float(), dim=1))

    def forward(self, features: Float[Tensor, "n ..."]) -> Float[Tensor, "n y"]:
        """Return the logits."""
        directions = functional.normalize(features.flatten(1), dim=1)
        return LOGIT_SCALE * functional.linear(directions, self.weight)


def read_class_embeddings(path: str, shape: tuple[int, int]) -> Float[Tensor, "y d"]:
    """Return the rows of a .npy, .safetensors or .csv file, one per class.

    Raises:
        FieldError: If the file cannot be read, has another shape than the classes and features, or
            a row that has no direction.
    """
    field, file = "model.class_embeddings", Path(os.path.expanduser(path))
    try:
        if file.suffix == ".npy":
            with file.open("rb") as opened:
                values = torch.from_numpy(np.load(opened, allow_pickle=False))
        elif file.suffix == ".safetensors":
            (values,) = load_file(file).values()
        else:
            with warnings.catch_warnings(action="ignore"):  # of an empty file
                values = torch.from_numpy(np.loadtxt(file, delimiter=",", ndmin=2))
    except Exception as error:  # a damaged file makes numpy raise nearly anything
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        raise FieldError(field, f"a file with one matrix of numbers ({cause})", path) from None
    allowed = f"a matrix of {shape[0]} classes x {shape[1]} features"
    require(tuple(values.shape) == shape, field, allowed, tuple(values.shape))
    real = not values.is_complex() and bool(values.float().isfinite().all())
    require(real, field, "finite real numbers", path)
    lengths = functional.normalize(values.float(), dim=1).norm(dim=1)
    aimless = (lengths < 0.99).nonzero().flatten().tolist()  # too short, or too long for float32
    allowed = "rows of a length between 1e-12 and 1e19, whose direction counts"
    require(not aimless, field, allowed, f"classes {aimless[:5]} of {path}")
    return values


def find_statistics_head(model: nn.Module) -> StatisticsHead | None:
    """Return the head of a network that is solved from statistics; None for other networks."""
    return next((m for m in model.modules() if isinstance(m, StatisticsHead)), None)


def explain_missing_head(model: nn.Module) -> str:
    """Return the reason why a network takes no statistics, or an empty string if it does."""
    missing = find_statistics_head(model) is None
    return "its head is trained, not solved from statistics (model.tune)" if missing else ""


def split_parameters(
    parameters: Float[Tensor, "*n p"], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Return views of a `StatisticsHead`'s parameters by their own name, without the layer's.

    Args:
        parameters: Flat parameters or updates; leading dimensions stay.
        shapes: Shapes of all parameters of the network, by name.
    """
    pieces = parameters.split([int(np.prod(shape)) for shape in shapes.values()], dim=-1)
    return {
        name.rpartition(".")[2]: piece.unflatten(-1, shape)
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
    }


def take_upper_triangle(matrix: Float[Tensor, "d d"]) -> Float[Tensor, " s"]:
    """Return the upper triangle of a symmetric matrix with its diagonal, row by row."""
    row, column = torch.triu_indices(*matrix.shape)
    return matrix[row, column]


def fill_symmetric(half: Float[Tensor, " s"], width: int) -> Float[Tensor, "d d"]:
    """Return the symmetric matrix of which `half` is the upper triangle, row by row."""
    matrix = half.new_zeros(width, width)
    row, column = torch.triu_indices(width, width)
    matrix[row, column] = half
    matrix[column, row] = half
    return matrix


def count_traffic(model: nn.Module) -> tuple[int, int] | None:
    """Return the bytes that a client receives and sends; None unless a head is solved.

    A client sends the statistics, and receives the solved head; the zeros in the other parameters
    are no part of the messages.
    """
    head = next((m for m in model.modules() if isinstance(m, StatisticsHead | CosineHead)), None)
    if head is None:
        return None
    if isinstance(head, CosineHead):
        return head.weight.nbytes, 0
    sent = sum(parameter.nbytes for parameter in head.statistics().values())
    return head.weight.nbytes + head.bias.nbytes, sent


def find_linear_head(model: nn.Sequential) -> nn.Linear:
    """Return the head of a network.

    Raises:
        FieldError: If its last stage is no linear layer.
    """
    head = model[-1]
    linear, kind = isinstance(head, nn.Linear), type(head).__name__
    require(linear, "model.backbone", "a network with a linear head", kind)
    assert isinstance(head, nn.Linear)
    return head


def count_start_traffic(model: nn.Sequential, tune: str) -> tuple[int, int]:
    """Return the bytes that a client receives and sends for the head that training starts from.

    The head itself counts with the first global model.
    """
    _, sent = count_traffic(sketch_head(model, tune)) or (0, 0)
    return 0, sent


def sketch_head(model: nn.Sequential, tune: str) -> StatisticsHead:
    """Return the head that a closed form puts in the place of a network's own, without data."""
    layer = find_linear_head(model)
    with torch.device("meta"):
        return StatisticsHead(layer.in_features, layer.out_features, tune in SECOND_MOMENTS)


@torch.no_grad()
def set_head(model: nn.Sequential, solved: Mapping[str, Tensor]) -> None:
    """Copy a solved head into a network's own, whose bias is left out if it has none."""
    layer = find_linear_head(model)
    for name in HEAD:
        parameter = getattr(layer, name)
        if parameter is not None:
            parameter.copy_(solved[name])
