"""A plug-in is one new file: nothing else has to be edited for it to be found and run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

RULE = '''
"""A rule that a newcomer drops in."""

from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationRule


@final
@dataclass(frozen=True)
class HalfwayRule(AggregationRule):
    """Half of the plain mean.

    Source: https://example.org/halfway.
    """

    factor: float = 0.5

    def aggregate(
        self, state: Any, updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"]
    ) -> tuple[Any, Float[Tensor, " p"]]:
        """Return half of the mean."""
        self.check_count(updates)
        return state, self.factor * updates.mean(0)
'''

FILE = '''
"""Does a rule that was dropped in run?"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.data.partition import Iid
from strategies.fedavg import FedAvg

EXPERIMENT = Experiment(
    name="drop_in",
    data=Data(dataset="digits", num_clients=3, num_samples=60, num_test=30),
    partition=Iid(),
    model=Model("small_cnn"),
    client=SgdClient(),
    strategy=FedAvg(),
    rounds=1,
)
'''

SCRIPT = """
import json, sys
import fl_sim, strategies
from fl_sim.cli import catalogue
from fl_sim.config import experiment_file

entry = {e.name: e for e in catalogue.list_entries("strategies")}["HalfwayRule"]
experiment = experiment_file.read("drop_in.py", ["strategy=HalfwayRule"]).experiment
results = fl_sim.run(experiment, out="runs")
print(json.dumps({
    "package": strategies.__file__,
    "entry": list(entry),
    "strategy": json.loads(experiment.to_json())["strategy"],
    "complete": results.complete,
    "metrics": sorted(set(results.rows["metric"])),
}))
"""


@pytest.fixture(scope="module")
def dropped_in(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Copy the strategies, drop one file in, list it and run it in a process of its own."""
    folder = tmp_path_factory.mktemp("drop_in")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "strategies", folder / "strategies", ignore=ignored)
    (folder / "strategies" / "halfway.py").write_text(RULE)
    (folder / "drop_in.py").write_text(FILE)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {"folder": folder, **json.loads(done.stdout.splitlines()[-1])}


def test_the_copied_package_was_the_one_in_use(dropped_in: Any) -> None:
    assert Path(dropped_in["package"]).is_relative_to(dropped_in["folder"])


def test_a_new_file_is_listed_with_its_source(dropped_in: Any) -> None:
    expected = ["HalfwayRule", "Half of the plain mean.", "https://example.org/halfway."]
    assert dropped_in["entry"] == [*expected, "strategies.halfway: HalfwayRule(factor=0.5)"]


def test_a_new_rule_is_chosen_by_its_class_name_alone(dropped_in: Any) -> None:
    assert dropped_in["strategy"] == {"class": "strategies.halfway.HalfwayRule", "factor": 0.5}


def test_a_new_rule_runs(dropped_in: Any) -> None:
    assert dropped_in["complete"]
    assert "accuracy" in dropped_in["metrics"]


def test_nothing_was_written_into_the_tree(dropped_in: Any) -> None:
    assert not (ROOT / "strategies" / "halfway.py").exists()
