"""The Ray backend: the bits of one process, also if workers die, hang or are lost."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, FailurePolicy, Model, Participation, run
from fl_sim.backends import ray_pool
from fl_sim.data.partition import Iid
from fl_sim.results import Results
from fl_sim.runs.progress import Progress
from fl_sim.training.faults import Faults
from fl_sim.training.tasks import NO_CLIENT

pytestmark = pytest.mark.ray

Maker = Callable[..., Experiment]
MANY: dict[str, Any] = {  # clients, two in a chunk
    "data": Data(dataset="digits", num_clients=70, num_samples=700, num_test=60),
    "partition": Iid(),
    "model": Model("linear"),
}


@pytest.fixture(scope="module", autouse=True)
def no_ray_left() -> Iterator[None]:
    """Leave no worker behind."""
    yield
    ray.shutdown()


def ran(experiment: Experiment, out: Path, **options: Any) -> Results:
    results = run(experiment, out=out, controls=False, **options)
    assert results.complete, results.cells.error.tolist()
    return results


def bits(results: Results) -> str:
    return str(results.cells.params_sha256[0])


def test_clients_that_kill_their_workers_are_rows_and_retried_to_the_same_bits(
    experiment: Maker, tmp_path: Path
) -> None:
    wanted = experiment(failures=FailurePolicy("retry", retries=3), rounds=3)
    crashes = Faults(crash=0.15)
    struck = [
        (number, client)
        for number in (1, 2, 3)
        for client in range(4)
        if crashes.draw(wanted.seed, number, client, 0)
    ]
    assert struck, "the seed draws no crash: nothing is tested"
    flaky = ran(wanted, tmp_path / "a", engine="ray", workers=2, faults=crashes)
    rows = set(zip(flaky.failures["round"], flaky.failures.client, strict=True))
    assert rows == set(struck)
    assert all(flaky.failures.cause == "its worker died")
    assert bits(flaky) == bits(ran(wanted, tmp_path / "b"))


def test_a_worker_that_dies_over_many_clients_is_a_row_and_the_culprit_another(
    experiment: Maker, tmp_path: Path
) -> None:
    wanted = experiment(**MANY, rounds=1)
    crashes = Faults(crash=0.05)
    struck = {c for c in range(70) if crashes.draw(wanted.seed, 1, c, 0)}
    assert struck, "the seed draws no crash: nothing is tested"
    flaky = ran(wanted, tmp_path / "a", engine="ray", workers=2, faults=crashes)
    assert set(flaky.failures.client) == {NO_CLIENT} | struck
    local = ran(wanted, tmp_path / "b", faults=crashes)
    assert bits(flaky) == bits(local)


def test_a_client_that_hangs_is_timed_out(experiment: Maker, tmp_path: Path) -> None:
    wanted = experiment(failures=FailurePolicy("skip", timeout=2.0))
    hangs = Faults(hang=0.2)
    struck = {(n, c) for n in (1, 2) for c in range(4) if hangs.draw(wanted.seed, n, c, 0)}
    assert struck, "the seed draws no hang: nothing is tested"
    results = ran(wanted, tmp_path, engine="ray", workers=2, faults=hangs)
    assert set(zip(results.failures["round"], results.failures.client, strict=True)) == struck
    assert all("no reply within 2 s" in cause for cause in results.failures.cause)


def test_a_worker_that_died_between_runs_costs_no_client(experiment: Maker, tmp_path: Path) -> None:
    wanted = experiment(rounds=1)
    first = ran(wanted, tmp_path / "a", engine="ray", workers=2)
    ray.kill(ray_pool.get_workers(2)[0].actor)
    again = ran(wanted, tmp_path / "b", engine="ray", workers=2)
    assert bits(again) == bits(first)
    assert len(again.failures) == 0


def test_a_node_lost_in_mid_round_leaves_the_bits_as_they_are(
    experiment: Maker, tmp_path: Path
) -> None:
    wanted = experiment(
        data=Data(dataset="digits", num_clients=8, num_samples=800, num_test=60),
        client=SgdClient(local_epochs=4),
        participation=Participation(clients_per_round=6),
        rounds=6,
    )
    local = bits(ran(wanted, tmp_path / "local"))
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    lost: list[float] = []
    try:
        second = cluster.add_node(num_cpus=1)

        def lose() -> None:
            time.sleep(0.3)  # into the third round
            cluster.remove_node(second, allow_graceful=False)
            lost.append(time.monotonic())

        thread = threading.Thread(target=lose)

        def listen(progress: Progress) -> None:
            if progress.round == 2:
                thread.start()

        results = ran(
            wanted,
            tmp_path / "ray",
            engine="ray",
            workers=2,
            ray_address=cluster.address,
            listen=listen,
        )
        thread.join()
        assert lost
        assert bits(results) == local
        assert set(results.failures.client) <= {NO_CLIENT}
    finally:
        ray.shutdown()
        cluster.shutdown()
