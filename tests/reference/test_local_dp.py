"""A client with local differential privacy against its definition."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clients.fedbn import FedBNClient
from clients.local_dp import LocalDpClient
from clients.scaffold import CONTROL, ScaffoldClient
from clients.sgd import SgdClient
from clients.worker_momentum import WorkerMomentumClient
from fl_sim import Model, run
from fl_sim.config import validation
from fl_sim.contracts import Release, Releases, Shard
from fl_sim.core.errors import FieldError
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.models.parameters import flatten
from fl_sim.participants import Participation
from fl_sim.privacy.accounting import compute_epsilon


def network(size: int = 10) -> nn.Module:
    with seed_torch(0, "network"):
        return nn.Sequential(nn.Flatten(), nn.Linear(36, size))


def shard_of(classes: int = 10) -> Shard:
    rng = generator(0, "shard")
    images = torch.randint(0, 256, (20, 1, 6, 6), generator=rng, dtype=torch.uint8)
    return Shard(0, images, torch.arange(20) % classes, torch.arange(20), classes)


def update_of(client: Any, shard: Shard, size: int = 10) -> torch.Tensor:
    model = network(size)
    start = flatten(model)
    client.train(model, shard, generator(1, "client"))
    return flatten(model).double() - start.double()


def test_without_noise_it_sends_the_update_at_its_longest() -> None:
    plain = update_of(SgdClient(), shard_of())
    length = float(plain.norm())
    for bound in (0.5 * length, 2 * length):
        client = LocalDpClient(clipping_norm=bound, noise_multiplier=0.0)
        found = update_of(client, shard_of())
        torch.testing.assert_close(found, plain * min(1.0, bound / length), rtol=1e-4, atol=1e-6)


def test_the_noise_is_as_strong_as_it_says() -> None:
    size = 3000
    quiet, loud = (update_of(LocalDpClient(0.5, noise), shard_of(), size) for noise in (0.0, 2.0))
    assert float((loud - quiet).std()) == pytest.approx(2.0 * 0.5, rel=0.02)


def test_each_round_is_a_release_of_any_two_updates_twice_the_norm_apart() -> None:
    client, shard = LocalDpClient(noise_multiplier=3.0, delta=1e-4), shard_of()
    for _ in range(3):
        told = client.train(network(), shard, generator(2, "client"))
    assert all(map(math.isnan, told.values()))
    made = client.releases(20, shard.memory)
    assert made == Releases((Release(1.5, count=3),), 1e-4, "local")
    dp: Any = pytest.importorskip("dp_accounting")
    # Three releases of a difference of 2 C in noise of 3 C are one of 2 sqrt(3) / 3 deviations.
    expected = dp.get_epsilon_gaussian(3 / (2 * 3**0.5), 1e-4)
    assert compute_epsilon(made).epsilon == pytest.approx(expected)
    accountant: Any = pytest.importorskip("dp_accounting.pld").PLDAccountant(
        dp.NeighboringRelation.REPLACE_ONE
    )
    accountant.compose(dp.GaussianDpEvent(3.0), 3)  # there the noise is relative to C
    assert compute_epsilon(made).epsilon == pytest.approx(accountant.get_epsilon(1e-4), abs=1e-3)


def test_what_has_no_noise_does_not_leave(experiment: Callable[..., Any]) -> None:
    shard = replace(shard_of(), received={CONTROL: torch.zeros(370)})
    with pytest.raises(ValueError, match="control would leave without noise"):
        update_of(LocalDpClient(training=ScaffoldClient()), shard)
    for client in (LocalDpClient(), LocalDpClient(training=FedBNClient())):
        with pytest.raises(FieldError, match="statistics of BatchNorm would leave"):
            validation.check(experiment(client=client, model=Model("small_cnn", norm="batch")))


@pytest.mark.parametrize(
    "client", [LocalDpClient(), WorkerMomentumClient(training=LocalDpClient())]
)
def test_clients_pay_for_the_rounds_in_which_they_took_part(
    client: Any, experiment: Callable[..., Any], tmp_path: Path
) -> None:
    wanted = experiment(
        model=Model("small_cnn", norm="group"),
        client=client,
        participation=Participation(clients_per_round=2),
        rounds=3,
    )
    results = run(wanted, out=tmp_path, controls=False)
    assert results.complete, results.cells.error.tolist()
    rows = results.rows
    taken = rows[rows.metric == "update_norm"].groupby("client").size()
    last = rows[(rows.metric == "epsilon") & (rows["round"] == 3)].set_index("client")
    assert set(last.group) == {"local"}
    assert last.valid.all()
    for number, count in taken.items():
        made = Releases((Release(0.5, count=int(count)),), 1e-5, "local")
        assert last.value[number] == pytest.approx(compute_epsilon(made).epsilon)
    assert results.cells["epsilon.local"].iloc[0] == last.value.max()
