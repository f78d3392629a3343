"""Equal final parameters on every engine, for any number of workers, and after kill -9."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from clients.alie import AlieClient
from clients.backdoor import BackdoorClient
from clients.joint_label_flip import JointLabelFlipClient
from clients.label_flip import LabelFlipClient
from clients.scaffold import ScaffoldClient
from clients.sgd import SgdClient
from clients.worker_momentum import WorkerMomentumClient
from fl_sim import Adversary, Data, Experiment, Model, Participation, run
from fl_sim.data.partition import Iid
from strategies.fedadam import FedAdam
from strategies.flora import FLoRA
from strategies.krum import Krum
from strategies.scaffold import SCAFFOLD
from strategies.server_momentum import ServerMomentum

Maker = Callable[..., Experiment]
ROOT = Path(__file__).parents[3]
KILLS = 3
MANY: dict[str, Any] = {  # clients, two in a chunk
    "data": Data(dataset="digits", num_clients=70, num_samples=700, num_test=60),
    "partition": Iid(),
    "model": Model("linear"),
}
VIT = Model("timm:vit_tiny_patch16_224", pixels=32, blocks=2)
TUNES: tuple[Any, ...] = ("head", "lora", "prompt", "full")
CASES: dict[str, dict[str, Any]] = {
    "fedavg": {"participation": Participation(clients_per_round=3)},
    "krum, a backdoor on a frozen front": {
        "strategy": Krum(num_byzantine=0),
        "adversary": Adversary(BackdoorClient(share=0.5), clients=(1, 2)),
        "model": Model("small_cnn", tune="head"),
    },
    "fedadam, chunks of two": {"strategy": FedAdam(), **MANY},
    "scaffold": {
        "strategy": SCAFFOLD(),
        "client": ScaffoldClient(sgd=SgdClient(momentum=0.0)),
        "participation": Participation(clients_per_round=3),
    },
    "distributed sgd, attackers beside": {
        "client": WorkerMomentumClient(),
        "strategy": ServerMomentum(weight_decay=1e-3),
        "adversary": (
            Adversary(AlieClient(), num_clients=2, beside=True),
            Adversary(JointLabelFlipClient(), beside=True, first_round=2),
            Adversary(LabelFlipClient(), num_clients=2, beside=True),
        ),
    },
    "batch statistics": {"model": Model("small_cnn", norm="batch")},
    "low-rank changes, folded": {"model": Model("small_cnn", tune="lora"), "strategy": FLoRA()},
    **{f"transformer, {tune}": {"model": replace(VIT, tune=tune)} for tune in TUNES},
}
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module", autouse=True)
def no_ray_left() -> Iterator[None]:
    """Leave no worker behind."""
    yield
    ray.shutdown()


def final_hash(experiment: Experiment, out: Path, **options: Any) -> str:
    results = run(experiment, out=out, controls=False, **options)
    assert results.complete, results.cells.error.tolist()
    return str(results.cells.params_sha256[0])


@every_case
@pytest.mark.ray
def test_any_number_of_workers_gives_the_bits_of_one_process(
    experiment: Maker, tmp_path: Path, name: str
) -> None:
    wanted = experiment(**CASES[name], rounds=3)
    local = final_hash(wanted, tmp_path / "local")
    for workers in (3, 2, 1):  # Ray starts once, and its pool shrinks
        own = final_hash(wanted, tmp_path / str(workers), engine="ray", workers=workers)
        assert own == local, f"{workers} workers"


@pytest.mark.ray
def test_cohorts_give_the_same_bits_on_any_number_of_workers(
    experiment: Maker, tmp_path: Path
) -> None:
    wanted = experiment(**MANY)
    local = final_hash(wanted, tmp_path / "local", batch_clients="on")
    for workers in (3, 2, 1):
        out = tmp_path / str(workers)
        own = final_hash(wanted, out, engine="ray", workers=workers, batch_clients="on")
        assert own == local, f"{workers} workers"


@every_case
@pytest.mark.slow
@pytest.mark.ray
def test_flowers_engine_gives_the_bits_of_the_local_one(
    experiment: Maker, tmp_path: Path, name: str
) -> None:
    wanted = experiment(**CASES[name], rounds=3)
    local = final_hash(wanted, tmp_path / "local")
    for workers in (1, 2):
        out = tmp_path / str(workers)
        assert final_hash(wanted, out, engine="flower", workers=workers) == local


@every_case
@pytest.mark.slow
def test_killed_three_times_at_random_moments_it_ends_with_the_bits_of_an_unbroken_run(
    experiment: Maker, tmp_path: Path, name: str
) -> None:
    wanted, moments = experiment(**CASES[name], rounds=60), random.Random(name)
    file = tmp_path / "experiment.json"
    file.write_text(wanted.to_json())
    reached = [0]
    for _ in range(KILLS):
        more, delay = moments.randint(1, 12), 0.05 * moments.random()
        reached.append(killed_after(file, tmp_path / "a", more, delay))
        assert reached[-2] < reached[-1] < 60
    resumed = final_hash(wanted, tmp_path / "a", resume=True)
    assert resumed == final_hash(wanted, tmp_path / "b")


def killed_after(file: Path, out: Path, rounds: int, delay: float) -> int:
    """Run on until `rounds` more are done, kill -9 after a moment, and return the last one."""
    command = [sys.executable, "-m", "fl_sim", "run", str(file), "--no-controls", "--resume"]
    going = subprocess.Popen(
        [*command, "--out", str(out), "--progress", "json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert going.stdout is not None
    told = [json.loads(going.stdout.readline())["round"] for _ in range(rounds)]
    time.sleep(delay)
    going.kill()
    assert going.wait() == -signal.SIGKILL
    going.stdout.close()
    return int(told[-1])
