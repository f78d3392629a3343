"""Equal seeds give equal bits: twice, after an interruption, for all strategies and networks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.serverapp import strategy as flower
from safetensors.torch import load_file, save_file

from clients.sgd import SgdClient
from fl_sim import Experiment, Model, Participation, run
from fl_sim.data.layout import Layout
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.runs.progress import Progress
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.flora import FLoRA
from strategies.krum import Krum

Maker = Callable[..., Experiment]

STRATEGIES = [
    FedAvg(),
    FedAvgM(),
    Krum(num_byzantine=0),
    flower.FedAdam(min_train_nodes=1, min_available_nodes=1),
    flower.FedAvgM(server_momentum=0.9),
    flower.FedAvg(fraction_train=0.5, min_train_nodes=1),
    flower.DifferentialPrivacyServerSideFixedClipping(
        flower.FedAvg(), noise_multiplier=0.1, clipping_norm=1.0, num_sampled_clients=4
    ),
]


def name_of(strategy: Any) -> str:
    return f"{type(strategy).__module__.split('.')[0]}-{type(strategy).__name__}"


def final_bits(experiment: Experiment, out: Path, **options: Any) -> str:
    results = run(experiment, out=out, controls=False, **options)
    assert results.complete, results.cells.error.tolist()
    return str(results.cells.params_sha256[0])


class BreakError(Exception):
    """What breaks a run off in these tests."""


def broken_after(number: int) -> Callable[[Progress], None]:
    def listen(progress: Progress) -> None:
        if progress.round == number:
            raise BreakError

    return listen


def checkpoints(out: Path) -> list[Path]:
    return sorted(out.glob("*/*/*/checkpoints/*.safetensors"))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=name_of)
def test_a_broken_run_ends_with_the_bits_of_an_unbroken_one(
    experiment: Maker, tmp_path: Path, strategy: Any
) -> None:
    wanted = experiment(strategy=strategy, rounds=4)
    unbroken = final_bits(wanted, tmp_path / "a")
    run(wanted, out=tmp_path / "b", controls=False, listen=broken_after(2))
    assert checkpoints(tmp_path / "b"), "the break left no checkpoint"
    assert final_bits(wanted, tmp_path / "b", resume=True) == unbroken


def test_batch_statistics_survive_a_break(experiment: Maker, tmp_path: Path) -> None:
    wanted = experiment(model=Model("small_cnn", norm="batch"), rounds=3)
    unbroken = final_bits(wanted, tmp_path / "a")
    run(wanted, out=tmp_path / "b", controls=False, listen=broken_after(1))
    assert final_bits(wanted, tmp_path / "b", resume=True) == unbroken


def test_frozen_weights_that_a_rule_adds_to_survive_a_break(
    experiment: Maker, tmp_path: Path
) -> None:
    wanted = experiment(model=Model("mlp", tune="lora"), strategy=FLoRA(), rounds=3)
    unbroken = final_bits(wanted, tmp_path / "a")
    run(wanted, out=tmp_path / "b", controls=False, listen=broken_after(1))
    assert final_bits(wanted, tmp_path / "b", resume=True) == unbroken


def test_twice_the_same_and_other_seeds_differ(experiment: Maker, tmp_path: Path) -> None:
    wanted = experiment(
        protection=RandomNoise(16 / 255),
        layout=Layout(0.5),
        participation=Participation(clients_per_round=2),
    )
    first, second = (final_bits(wanted, tmp_path / name) for name in "ab")
    assert first == second
    assert final_bits(wanted, tmp_path / "c", seeds=[1]) != first


def test_runs_side_by_side_give_the_bits_of_runs_in_turn(experiment: Maker, tmp_path: Path) -> None:
    wanted = experiment(rounds=1)
    apart = run(wanted, [0, 1, 2], out=tmp_path / "a", workers=2, controls=False)
    in_turn = run(wanted, [0, 1, 2], out=tmp_path / "b", workers=1, controls=False)
    assert apart.cells.params_sha256.tolist() == in_turn.cells.params_sha256.tolist()


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    experiment: Maker, tmp_path: Path
) -> None:
    wanted = experiment(rounds=4)
    unbroken = final_bits(wanted, tmp_path / "a")
    run(wanted, out=tmp_path / "b", controls=False, listen=broken_after(3))
    newest = checkpoints(tmp_path / "b")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    assert final_bits(wanted, tmp_path / "b", resume=True) == unbroken


def test_a_tampered_checkpoint_is_passed_over_too(experiment: Maker, tmp_path: Path) -> None:
    wanted = experiment(rounds=4)
    unbroken = final_bits(wanted, tmp_path / "a")
    run(wanted, out=tmp_path / "b", controls=False, listen=broken_after(3))
    newest = checkpoints(tmp_path / "b")[-1]
    tensors = {name: tensor + 1 for name, tensor in load_file(newest).items()}
    from safetensors import safe_open

    with safe_open(newest, "pt") as file:
        note = file.metadata()
    save_file(tensors, newest, note)
    assert final_bits(wanted, tmp_path / "b", resume=True) == unbroken


def test_results_run_again_from_their_own_json(experiment: Maker, tmp_path: Path) -> None:
    wanted = experiment(client=SgdClient(learning_rate=0.02))
    first = final_bits(wanted, tmp_path / "a")
    (path,) = (tmp_path / "a").glob("*/*/*/experiment.json")
    assert final_bits(Experiment.from_json(path.read_text()), tmp_path / "b") == first


@pytest.mark.slow
def test_noise_that_clients_make_side_by_side_has_the_same_bits(
    experiment: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = experiment(
        protection=ErrorMinimizing(max_passes=1, noise_steps=1),
        layout=Layout(1.0, provenance="client"),
        rounds=1,
    )
    found = []
    for workers in (1, 2):
        monkeypatch.setenv("FL_SIM_CACHE", str(tmp_path / f"cache {workers}"))
        found.append(final_bits(own, tmp_path / f"out {workers}", workers=workers))
    assert found[0] == found[1]
    caches = [
        {path.name for path in (tmp_path / f"cache {workers}").glob("protected/*.safetensors")}
        for workers in (1, 2)
    ]
    assert caches[0] == caches[1]
    assert len(caches[0]) == own.data.num_clients
