"""Calls of Flower's partitioners are read as literals, and refused before any work."""

import sys

import numpy as np
import pytest

from fl_sim.core.errors import FieldError, RequestError
from fl_sim.core.seeding import numpy_generator
from fl_sim.data.flower_partition import FlowerPartition


@pytest.mark.parametrize(
    "partitioner",
    [
        "",
        "3",
        "a.b",
        "f(1)",
        "f(x=open('f'))",
        "f(**{'x': 1})",
        "f(x=1",
        "f(x)(y=1)",
        "f(x=1, x=2)",
    ],
)
def test_a_text_that_is_no_call_with_literals_is_refused(partitioner: str) -> None:
    with pytest.raises(FieldError, match=r"partitioner: a call with named arguments, such as "):
        FlowerPartition(partitioner)


def test_a_seed_out_of_range_is_refused() -> None:
    with pytest.raises(FieldError, match="seed: None, or from 0"):
        FlowerPartition(seed=-1)
    with pytest.raises(FieldError, match="partitioner: a seed that is a number, or none; got"):
        FlowerPartition("DirichletPartitioner(alpha=0.3, seed=None)")


def test_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RequestError, match=r"needs flwr-datasets: pip install 'fl-sim\[hf\]'$"):
        FlowerPartition().split(np.arange(10), 2, numpy_generator(0, "partition"))
