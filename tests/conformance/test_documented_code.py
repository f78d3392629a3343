"""The Python code of README and docs runs as it stands there."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fl_sim
from fl_sim import Experiment, experiment_file

ROOT = Path(__file__).parents[2]
SMALL = {
    "rounds": 1,
    "data.dataset": "digits",
    "data.num_clients": 3,
    "data.num_samples": 90,
    "data.num_test": 40,
    "model.backbone": "small_cnn",
    "model.init": "random",
    "model.tune": "full",
}


def blocks(path: str) -> list[str]:
    """Return the Python code of a page, block by block."""
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)


def names_of(code: str, name: str) -> dict[str, Any]:
    """Run code as a module, and return what it defines."""
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(code, name, "exec"), module.__dict__)
    return vars(module)


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make experiments that a page reads as small as a test needs them, and run them elsewhere."""
    whole = experiment_file.read

    def read(path: str, overrides: tuple[str, ...] = ()) -> experiment_file.ExperimentFile:
        content = whole(ROOT / path, overrides)
        experiment: Experiment = content.experiment
        for field, value in SMALL.items():
            experiment = experiment.with_value(field, value)
        return experiment_file.ExperimentFile(experiment, {}, (0,))

    real = fl_sim.run
    monkeypatch.setattr(experiment_file, "read", read)
    monkeypatch.setattr(
        fl_sim, "run", lambda own, seeds=None, **how: real(own, seeds, out=tmp_path, **how)
    )
    monkeypatch.chdir(tmp_path)


PLACES = [
    (page, place)
    for page in ("README.md", "docs/experiments.md")
    for place in range(len(blocks(page)))
]


@pytest.mark.parametrize(("page", "place"), PLACES)
@pytest.mark.usefixtures("small_runs")
def test_the_blocks_of_a_page_run(page: str, place: int) -> None:
    names_of(blocks(page)[place], f"block_{place}")


FILES = [code for code in blocks("docs/extending.md") if code.startswith('"""')]


@pytest.mark.parametrize("place", range(len(FILES)))
def test_the_complete_files_of_the_guide_can_be_imported(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code in FILES:
        named = re.search(r"fl-sim (?:sweep|study) experiments/(\w+)\.py", code)
        if named and f"experiments.{named.group(1)} " in FILES[place]:
            name = f"experiments.{named.group(1)}"
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
            names_of(code, name)
    defined = names_of(FILES[place], f"extending_{place}")
    assert any(not name.startswith("_") for name in defined)
