"""Tests that all engines do the same arithmetic."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.engines import floor, optimised
from benchmarks.engines.task import load_task
from benchmarks.pacer import NoPacer
from benchmarks.workloads import list_all_cases
from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model, run
from fl_sim.experiment import Participation
from fl_sim.models.architectures import ARCHITECTURES
from fl_sim.models.parameters import flatten

CASES = list_all_cases(full=True)


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


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.workload} {case.name}")
def test_every_job_names_an_existing_function(case: Case) -> None:
    for job in case.jobs.values():
        module, _, function = job.call.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        if "experiment" in job.arguments:
            Experiment.from_json(job.arguments["experiment"])


def test_the_names_of_cases_are_unique() -> None:
    names = [(case.workload, case.name) for case in CASES]
    assert len(set(names)) == len(names)
