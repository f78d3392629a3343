"""Private parts of Flower that this project uses, checked for each new release."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flower

from fl_sim.flower import compat


def test_a_process_can_be_somebody() -> None:
    compat.ensure_node_identity()
    message = Message(RecordDict(), 3, "train")
    assert message.metadata.dst_node_id == 3


def test_a_stamped_message_is_named_by_its_reply() -> None:
    compat.ensure_node_identity()
    message = Message(RecordDict(), 3, "train")
    compat.assign_message_id(message)
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.reply_to_message_id == message.metadata.message_id != ""


def test_globals_are_seeded_by_name_and_put_back() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = random.random(), np.random.rand()  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    with compat.seed_globals(0, "round", 1):
        inside = random.random(), np.random.rand()  # noqa: NPY002
    assert (random.random(), np.random.rand()) == before  # noqa: NPY002
    with compat.seed_globals(0, "round", 1):
        assert (random.random(), np.random.rand()) == inside  # noqa: NPY002


def test_flowers_simulation_can_be_imported() -> None:
    from flwr.simulation import run_simulation

    assert callable(run_simulation)


def test_flowers_simulation_gets_the_gpus_of_its_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr("flwr.simulation.run_simulation", lambda *_, **named: given.append(named))
    monkeypatch.setattr(compat.loopback, "find_start_problem", str)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for gpus in ([], [0, 1]):
        compat.simulate(lambda grid: None, ClientApp(), 4, num_workers=4, gpus=gpus)
    without, shared = (named["backend_config"] for named in given)
    assert without["client_resources"] == {"num_cpus": 1, "num_gpus": 0.0}
    assert shared["client_resources"] == {"num_cpus": 1, "num_gpus": 0.5}
    assert shared["init_args"]["num_gpus"] == 2


def test_flowers_strategies_have_the_keys_we_read() -> None:
    strategy = flower.FedAvg()
    assert strategy.arrayrecord_key == "arrays"
    assert strategy.min_available_nodes == 2


def test_named_arrays_keep_their_order() -> None:
    record = ArrayRecord({name: torch.zeros(1) for name in "zab"})
    assert list(record) == ["z", "a", "b"]
