"""Tests that all engines do the same arithmetic."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.__main__ import choose_device
from benchmarks.cases import Case
from benchmarks.engines import floor, optimised
from benchmarks.engines.task import load_task
from benchmarks.pacer import NoPacer
from benchmarks.race import race
from benchmarks.workloads import list_all_cases, list_all_gpu_cases, w8_cifar
from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model, run
from fl_sim.experiment import Evaluation, Participation
from fl_sim.models.architectures import ARCHITECTURES
from fl_sim.models.parameters import flatten

CASES, GPU_CASES = list_all_cases(full=True), list_all_gpu_cases()


def federated(experiment: Experiment, out: Path) -> Tensor:
    assert run(experiment, out=out).complete
    (path,) = out.rglob("model.safetensors")
    return load_file(path)["parameters"]


@pytest.mark.parametrize("backbone", ["tiny_cnn", "linear"])
def test_the_loops_give_the_model_of_the_engine(
    backbone: str, experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    one = experiment(
        client=SgdClient(momentum=0.0, batch_size=16),
        data=Data("digits", num_clients=20, num_samples=500, num_test=10, held_out=0.0),
        model=Model(backbone, norm="off"),
        participation=Participation(18),
    )
    text = one.to_json()
    plain = torch.cat([v.flatten() for v in floor.run(NoPacer(), text, 1).values()])
    quick = flatten(optimised.run(NoPacer(), text, 1))
    ours = federated(one, tmp_path)
    moved = (ours - load_task(text).federation.start).norm()
    assert moved > 0.05
    assert (plain - ours).norm() < 1e-5 * moved
    assert (quick - ours).norm() < 1e-5 * moved


def of_workload(name: str) -> list[Case]:
    return [case for case in CASES if case.workload == name]


@pytest.mark.parametrize("case", of_workload("W0"), ids=lambda case: case.name)
def test_idle_clients_send_as_many_parameters_as_the_case_says(case: Case) -> None:
    experiment = Experiment.from_json(case.jobs["floor"].arguments["experiment"])
    clients, _, size = case.name.partition(" clients x ")
    assert experiment.clients_per_round == int(clients)
    _, classes, pixels = Path(str(experiment.data.path)).stem.split("-")
    with torch.device("meta"):
        model = ARCHITECTURES[experiment.model.backbone]((1, 1, int(pixels)), int(classes), "off")
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == round(float(size.removesuffix("M")) * 1_000_000)


@pytest.mark.parametrize(
    "case", [*CASES, *GPU_CASES], ids=lambda case: f"{case.workload} {case.name}"
)
def test_every_job_names_an_existing_function(case: Case) -> None:
    for job in case.jobs.values():
        module, _, function = job.call.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        if "experiment" in job.arguments:
            Experiment.from_json(job.arguments["experiment"])


def test_the_names_of_cases_are_unique() -> None:
    for cases in (CASES, GPU_CASES):
        names = [(case.workload, case.name) for case in cases]
        assert len(set(names)) == len(names)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """Return the benchmark of pfl-research with four clients."""
    monkeypatch.setenv("FL_SIM_CACHE", str(tmp_path / "cache"))
    case = w8_cifar.make_case(("floor", "local", "nondeterministic"), clients=4, per_round=2)
    case.prepare()
    return case


def test_the_benchmark_of_pfl_is_the_same_for_all_engines(tiny: Case, tmp_path: Path) -> None:
    one = Experiment.from_json(tiny.jobs["floor"].arguments["experiment"])
    one = replace(one, rounds=1, evaluation=Evaluation())
    assert one.client.num_steps(w8_cifar.PER_CLIENT) == 5
    state = floor.run(NoPacer(), one.to_json())
    plain = torch.cat([value.flatten() for value in state.values()])
    ours = federated(one, tmp_path)
    assert (plain - ours).norm() < 1e-5 * (ours - load_task(one.to_json()).federation.start).norm()


@pytest.mark.slow
def test_the_benchmark_of_pfl_can_be_raced(tiny: Case) -> None:
    lines: list[str] = []
    outcomes = race(tiny.jobs, runs=2, warm_up=1, budget=60.0, log=lines.append)
    assert lines == []
    assert {engine: len(outcome.samples) for engine, outcome in outcomes.items()} == dict.fromkeys(
        tiny.jobs, 2
    )


def test_a_gpu_that_is_missing_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fl_sim.core.device.count_devices", dict)
    with pytest.raises(typer.Exit) as stopped:
        choose_device("cuda")
    assert stopped.value.exit_code == 2
    message = "nothing to measure: device: auto or cpu on this machine; got 'cuda'"
    assert capsys.readouterr().out == f"{message}\n"
