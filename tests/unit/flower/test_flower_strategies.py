"""Flower's own strategies in an experiment: unusable ones are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.serverapp import strategy as flower

from clients.fedprox import FedProxClient
from clients.sgd import SgdClient
from fl_sim import Experiment, run
from fl_sim.core.errors import RequestError
from fl_sim.data.layout import Layout
from fl_sim.protections.random_noise import RandomNoise
from strategies.fedavg import FedAvg

Maker = Callable[..., Experiment]

AS_THEY_ARE: list[Any] = [
    flower.FedAvg(),
    flower.FedAvgM(server_momentum=0.5),
    flower.FedAdagrad(),
    flower.FedAdam(),
    flower.FedYogi(),
    flower.FedProx(proximal_mu=0.1),
    flower.FedMedian(),
    flower.FedTrimmedAvg(),
    flower.Krum(num_malicious_nodes=1),
    flower.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=2),
    pytest.param(flower.Bulyan(num_malicious_nodes=0), marks=pytest.mark.slow, id="Bulyan"),
    pytest.param(flower.QFedAvg(client_learning_rate=0.05), marks=pytest.mark.slow, id="QFedAvg"),
]


@pytest.mark.parametrize("strategy", AS_THEY_ARE, ids=lambda own: type(own).__name__)
def test_it_runs_unchanged_and_repeats(experiment: Maker, tmp_path: Path, strategy: Any) -> None:
    wanted = experiment(strategy=strategy)
    hashes = {run(wanted, out=tmp_path / name).cells.params_sha256[0] for name in "ab"}
    assert len(hashes) == 1


def test_the_clients_do_what_fedprox_asks(experiment: Maker, tmp_path: Path) -> None:
    theirs = run(experiment(strategy=flower.FedProx(proximal_mu=0.5)), out=tmp_path / "a")
    prox = FedProxClient(mu=0.5, sgd=SgdClient())
    ours = run(experiment(strategy=flower.FedAvg(), client=prox), out=tmp_path / "b")
    plain = run(experiment(strategy=flower.FedAvg()), out=tmp_path / "c")
    assert theirs.cells.params_sha256[0] == ours.cells.params_sha256[0]
    assert theirs.cells.params_sha256[0] != plain.cells.params_sha256[0]


def test_flowers_mean_is_ours_up_to_rounding(experiment: Maker, tmp_path: Path) -> None:
    theirs = run(experiment(strategy=flower.FedAvg()), out=tmp_path / "a")
    ours = run(experiment(strategy=FedAvg()), out=tmp_path / "b")
    assert theirs.cells.loss[0] == pytest.approx(ours.cells.loss[0], abs=1e-5)


@pytest.mark.parametrize(
    "strategy",
    [
        flower.DifferentialPrivacyClientSideFixedClipping(flower.FedAvg(), 0.1, 1.0, 4),
        flower.DifferentialPrivacyServerSideAdaptiveClipping(flower.FedAvg(), 0.1, 4),
        flower.FedXgbBagging(),
        flower.FedAvg(min_available_nodes=5),
    ],
    ids=lambda own: type(own).__name__,
)
def test_what_cannot_work_is_refused_before_any_work(
    experiment: Maker, tmp_path: Path, strategy: Any
) -> None:
    with pytest.raises(RequestError, match="strategy"):
        run(experiment(strategy=strategy), out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_control_with_too_few_clients_leaves_its_number_unknown(
    experiment: Maker, tmp_path: Path
) -> None:
    wanted = experiment(
        strategy=flower.FedAvg(min_available_nodes=4),
        protection=RandomNoise(16 / 255),
        layout=Layout(0.5, unit="clients"),
        rounds=1,
    )
    results = run(wanted, out=tmp_path)
    assert results.complete
    assert results.cells["protection.a_all"].notna().all()
    assert results.cells["protection.a_clean"].isna().all()
