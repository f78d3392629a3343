"""Partitions by the partitioners of Flower Datasets."""

import ast
import inspect
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, final

import numpy as np

from fl_sim.core import serialization
from fl_sim.core.errors import FieldError, RequestError, require, suggest
from fl_sim.data.partition import Indices, Partition


@final
@dataclass(frozen=True)
class FlowerPartition(Partition):
    """Each client gets a partition of a partitioner of Flower Datasets (`flwr-datasets`).

    The extra `hf` installs it. As in its `FederatedDataset`, images are shuffled before they are
    partitioned.

    Source: Flower Datasets, https://flower.ai/docs/datasets/.

    Attributes:
        partitioner: Call of a partitioner, such as `DirichletPartitioner(alpha=0.3)` or
            `PathologicalPartitioner(num_classes_per_partition=2)`. `num_partitions` is the number
            of clients, and `partition_by` the column `label` unless it is given; `owner` is
            another column where the dataset names owners.
        seed: Seed of the shuffle and of the partitioner. If None, it is drawn from the run's seed;
            42 is Flower's default, and gives the clients of `FederatedDataset`.
    """

    package: ClassVar[str] = "flwr_datasets"

    partitioner: str = "IidPartitioner"
    seed: int | None = None

    def __post_init__(self) -> None:
        serialization.check_types(self)
        _, named = _parse_call(self.partitioner)
        drawn = named.get("seed", 0) is not None  # Flower would draw it anew each time
        require(drawn, "partitioner", "a seed that is a number, or none", self.partitioner)
        seed = self.seed
        require(seed is None or 0 <= seed < 2**31, "seed", "None, or from 0 to 2**31 - 1", seed)

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Partition the images by their labels."""
        return self._split({"label": labels}, num_clients, rng)

    def split_with_owners(
        self, owners: Indices, labels: Indices, num_clients: int, rng: np.random.Generator
    ) -> list[Indices]:
        """Partition the images by their labels or owners."""
        return self._split({"label": labels, "owner": owners}, num_clients, rng)

    def _split(
        self, columns: dict[str, Indices], num_clients: int, rng: np.random.Generator
    ) -> list[Indices]:
        """Return the indices that the partitioner gives to each client.

        Raises:
            RequestError: If `flwr-datasets` is not installed.
            FieldError: If the partitioner refuses its arguments, leaves images out, or makes
                another number of partitions.
        """
        try:
            import datasets
            from flwr_datasets import partitioner as flower
        except ImportError:
            raise RequestError(
                "partition: FlowerPartition needs flwr-datasets: pip install 'fl-sim[hf]'"
            ) from None
        size = len(columns["label"])
        seed = int(rng.integers(2**31)) if self.seed is None else self.seed
        # `FederatedDataset` shuffles by this generator, which `Dataset.shuffle` makes of its seed.
        order = np.random.default_rng(seed).permutation(size)
        table = {name: column[order] for name, column in columns.items()}
        try:
            chosen = _make_partitioner(flower, self.partitioner, num_clients, seed)
            chosen.dataset = datasets.Dataset.from_dict(table | {"index": order})
            count = int(chosen.num_partitions)
            parts = [chosen.load_partition(i).with_format("numpy")["index"] for i in range(count)]
        except RequestError:
            raise
        except (ValueError, TypeError, AssertionError, LookupError, ArithmeticError) as error:
            self._refuse(str(error).partition("\n")[0] or type(error).__name__)
        if len(parts) != num_clients:
            self._refuse(f"it makes {len(parts)} partitions for {num_clients} clients")
        split = [np.asarray(part, dtype=np.int64) for part in parts]
        if min(map(len, split)) == 0:
            self._refuse("a client would have no image")
        if not np.array_equal(np.sort(np.concatenate(split)), np.arange(size)):
            left = size - len(np.unique(np.concatenate(split)))
            self._refuse(f"it leaves out {left} of {size} images")
        return split

    def _refuse(self, problem: str) -> NoReturn:
        allowed = f"a partitioner that gives each image to one client ({problem})"
        raise FieldError("partition.partitioner", allowed, self.partitioner)


def _parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments of a call; nothing is evaluated but literals.

    >>> _parse_call("DirichletPartitioner(alpha=0.3, self_balancing=True)")
    ('DirichletPartitioner', {'alpha': 0.3, 'self_balancing': True})

    Raises:
        FieldError: If the text is no name, and no call with named literals.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords if k.arg}
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        call, named = ast.Call(ast.Constant(0), [], []), {}
    is_plain = isinstance(call.func, ast.Name) and not call.args
    if not is_plain or len(named) != len(call.keywords):
        allowed = "a call with named arguments, such as DirichletPartitioner(alpha=0.3)"
        raise FieldError("partitioner", allowed, text)
    return call.func.id, named  # type: ignore[attr-defined]


def _make_partitioner(flower: Any, text: str, num_clients: int, seed: int) -> Any:
    """Return the partitioner that a call names, with the arguments that the run gives it."""
    name, named = _parse_call(text)
    known = [each for each in flower.__all__ if each.endswith("Partitioner")]
    if name not in known:
        allowed = f"one of {', '.join(known)}{suggest(name, known)}"
        raise FieldError("partition.partitioner", allowed, name)
    cls = getattr(flower, name)
    usual = {"num_partitions": num_clients, "partition_by": "label", "seed": seed}
    takes = inspect.signature(cls).parameters
    return cls(**{key: value for key, value in usual.items() if key in takes} | named)
