"""`num_frozen`: the values of a network that are neither trained nor sent."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fl_sim import Experiment, Model, run
from fl_sim.config.validation import network_of


@pytest.mark.parametrize("tune", ["head", "norm", "full"])
def test_trained_sent_and_frozen_values_are_the_whole_network(
    experiment: Callable[..., Experiment], tmp_path: Path, tune: str
) -> None:
    own = experiment(model=Model("small_cnn", tune=tune), rounds=1)
    network = network_of(own)
    parts = (network.frozen, network.trained)
    whole = sum(value.numel() for part in parts for value in part.state_dict().values())
    cell = run(own, out=tmp_path, controls=False).cells.iloc[0]
    sent = int(cell["cost.bytes_up"]) // (4 * own.data.num_clients)
    counters = 2  # of batches, in the two layers of normalisation: 8 bytes each
    assert cell["num_frozen"] == pytest.approx(whole - sent, abs=counters)
    assert (cell["num_frozen"] == 0) == (tune == "full")
