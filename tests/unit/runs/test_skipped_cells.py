"""Combinations that a grid leaves out: by SKIP, or as they cannot be run."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl_sim import Data, Experiment, cli, sweep
from fl_sim.config.experiment_file import read
from fl_sim.config.sweeps import check_skip, plan_cells
from fl_sim.core.atomic_io import DamagedFileError
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.report import page, tables
from fl_sim.report.study import build_study_table, write_study_page
from fl_sim.results import load_results
from fl_sim.runs import study
from strategies.fedavg import FedAvg
from strategies.krum import Krum

Maker = Callable[..., Experiment]
AXES = {"data.num_clients": [3, 6], "strategy": [FedAvg(), Krum()]}  # Krum needs 5 clients
SKIP = {"six clients need no mean": lambda e: e.data.num_clients == 6 and e.strategy == FedAvg()}
KRUM = r"data.num_clients: Krum\(num_byzantine=1\) needs 2f\+3 = 5 clients; got 3"


def tiny(experiment: Maker) -> Experiment:
    data = Data(dataset="digits", num_clients=4, num_samples=120, num_test=40)
    return experiment(data=data, rounds=1)


def test_a_grid_without_skip_is_the_whole_product(experiment: Maker) -> None:
    cells, skipped = plan_cells(experiment(), AXES, (0, 1))
    assert (len(cells), skipped) == (2 * 2 * 2, [])


def test_skipped_cells_keep_their_settings_seed_and_reason(experiment: Maker) -> None:
    cells, skipped = plan_cells(experiment(), AXES, (0, 1), skip=SKIP)
    assert len(cells) == 6
    assert [cell.seed for cell in skipped] == [0, 1]
    assert skipped[0].settings == {"data.num_clients": 6, "strategy": "FedAvg"}
    assert skipped[0].reason == "six clients need no mean"
    assert skipped[1].label == "num_clients 6, strategy FedAvg, seed 1"


def test_the_first_reason_that_holds_is_given_and_may_depend_on_the_seed(experiment: Maker) -> None:
    skip = {"odd": lambda e: e.seed == 1, "any": lambda e: e.rounds == 2}
    _, skipped = plan_cells(experiment(), {"rounds": [1, 2]}, (0, 1), skip=skip)
    assert [(cell.settings["rounds"], cell.seed, cell.reason) for cell in skipped] == [
        (1, 1, "odd"),
        (2, 0, "any"),
        (2, 1, "odd"),
    ]


def test_combinations_that_are_skipped_may_be_the_same_experiment(experiment: Maker) -> None:
    axes = {"how": {"a": {"rounds": 3}, "b": {"rounds": 3}}}
    with pytest.raises(RequestError, match="same experiment"):
        plan_cells(experiment(), axes, None)
    calls = iter([False, True])
    assert len(plan_cells(experiment(), axes, None, skip={"twice": lambda e: next(calls)})[0]) == 1


@pytest.mark.parametrize("skip", [[], {"": bool}, {"why": True}, {1: bool}])
def test_a_skip_of_another_shape_is_refused(skip: Any) -> None:
    with pytest.raises(FieldError, match="SKIP: by reason, functions"):
        check_skip(skip)


@pytest.mark.parametrize(
    ("skip", "message"),
    [
        ({"why": lambda e: e.strategy}, "SKIP: 'why': a function that returns True or False"),
        ({"why": lambda e: e.tune}, "SKIP: the test of 'why' raised AttributeError: .*tune"),
    ],
)
def test_a_test_that_fails_is_refused(experiment: Maker, skip: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        plan_cells(experiment(), {"rounds": [1, 2]}, None, skip=skip)


def test_impossible_cells_refuse_the_grid_with_their_number_and_cause(
    experiment: Maker, tmp_path: Path
) -> None:
    words = f"2 of 8 cells cannot be run: num_clients 3, strategy Krum, seed 0 and 1 more: {KRUM}"
    with pytest.raises(RequestError, match=words):
        sweep(tiny(experiment), AXES, (0, 1), out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_combination_that_is_no_experiment_is_named_too(experiment: Maker) -> None:
    axes = {"layout.fraction": [0.0, 0.5]}  # without a protection
    with pytest.raises(RequestError, match=r"1 of 2 cells .* fraction 0.5, seed 0: layout.fract"):
        plan_cells(experiment(), axes, None)
    cells, skipped = plan_cells(experiment(), axes, None, skip_invalid=True)
    assert len(cells) == len(skipped) == 1
    assert "0 without a protection" in skipped[0].reason


def test_a_mistake_of_all_cells_is_told_as_it_is(experiment: Maker, tmp_path: Path) -> None:
    lacking = experiment(data=Data(dataset="digits", num_clients=3), strategy=Krum())
    for skip_invalid in (False, True):
        with pytest.raises(FieldError, match=f"^{KRUM}"):
            sweep(lacking, {"rounds": [1, 2]}, out=tmp_path, skip_invalid=skip_invalid)


def test_a_misspelt_field_is_never_skipped(experiment: Maker) -> None:
    axes = {"how": {"a": {"client.batchsize": 8}, "b": {}}}
    with pytest.raises(FieldError, match="batchsize"):
        plan_cells(experiment(), axes, None, skip_invalid=True)


def test_nothing_left_to_run_is_refused_with_the_reasons(experiment: Maker) -> None:
    with pytest.raises(RequestError, match="every cell is skipped: no time"):
        sweep(experiment(), {"rounds": [1, 2]}, skip={"no time": lambda e: True})


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, experiment: Maker) -> Path:
    """Folder of a sweep of which SKIP leaves out one combination, and --skip-invalid another."""
    out = tmp_path_factory.mktemp("swept")
    return sweep(tiny(experiment), AXES, (0, 1), out=out, skip=SKIP, skip_invalid=True).path


def test_skipped_cells_are_recorded_beside_the_cells(swept: Path, experiment: Maker) -> None:
    results = load_results(swept)
    assert results.complete
    assert len(results.cells) == 4
    assert sorted(results.skipped["reason"].str[:15].unique()) == [
        "data.num_client",
        "six clients nee",
    ]
    assert set(results.skipped["settings.strategy"]) == {"FedAvg", "Krum"}
    marks = {path: path.stat().st_mtime_ns for path in swept.glob("*/*/result.json")}
    again = sweep(tiny(experiment), AXES, (0, 1), out=swept.parent, skip=SKIP, skip_invalid=True)
    assert {path: path.stat().st_mtime_ns for path in swept.glob("*/*/result.json")} == marks
    assert again.skipped.equals(results.skipped)


@pytest.mark.usefixtures("blank_figures")
def test_terminal_and_page_give_the_reasons(swept: Path) -> None:
    results = load_results(swept)
    caption = str(tables.build_summary_table(results).caption)
    assert "skipped: num clients 6, strategy FedAvg (six clients need no mean)" in caption
    assert re.search(rf"skipped: num clients 3, strategy Krum[^ ]* \({KRUM}", caption)
    text = page.write_page(results).read_text()
    assert "Skipped combinations" in text
    assert "4 runs, all finished, 4 skipped" in text


def test_an_entry_of_another_shape_is_damage(swept: Path, tmp_path: Path) -> None:
    content = json.loads((swept / "summary.json").read_text())
    for entries in ({}, ["x"], [{"settings": {}, "seed": 0, "label": "a"}]):
        content["skipped"] = entries
        content.pop("seal", None)
        (tmp_path / "summary.json").write_text(json.dumps(content))
        with pytest.raises(DamagedFileError):
            load_results(tmp_path)


FILE = '''
"""A question?"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from strategies.fedavg import FedAvg

EXPERIMENT = Experiment(
    name="small", client=SgdClient(), strategy=FedAvg(), rounds=1,
    data=Data(dataset="digits", num_clients=3, num_samples=90, num_test=40),
)
AXES = {"strategy": ["FedAvg", "Krum"]}
'''


@pytest.mark.usefixtures("blank_figures")
def test_a_file_names_skip_and_the_command_line_skips_the_invalid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.py"
    file.write_text(FILE + 'SKIP = {"why": lambda e: e.rounds > 1}')
    assert list(read(file).skip) == ["why"]
    for options, code in (([], 2), (["--skip-invalid"], 0)):
        out = ["--out", str(tmp_path), "--workers", "1"]
        monkeypatch.setattr(sys, "argv", ["fl-sim", "sweep", str(file), *out, *options])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == code
    told = capsys.readouterr()
    assert re.match(f"error: 1 of 2 cells cannot be run: strategy Krum, seed 0: {KRUM}", told.err)
    assert "(data.num_clients: Krum" in " ".join(told.out.split())
    file.write_text(FILE + "SKIP = 3")
    with pytest.raises(RequestError, match=r"small\.py:13: SKIP: by reason"):
        read(file)


STUDY = '''"""How large?"""

AXES = {"size": [1, 2], "how": {"plain": 1.0, "twice": 2.0}}
SKIP = {"too large": lambda size, how: size * how > 2}


def measure(seed, size, how):
    return {"area": size * how}
'''


def test_a_study_skips_points(tmp_path: Path) -> None:
    file = tmp_path / "areas.py"
    file.write_text(STUDY)
    results = study.run(file, seeds=(3,), out=tmp_path)
    assert len(results.cells) == 3
    assert results.skipped[["settings.size", "settings.how", "reason"]].to_numpy().tolist() == [
        ["2", "twice", "too large"]
    ]
    assert "size 2, how twice (too large)" in write_study_page(results).read_text()
    assert "skipped: size 2, how twice (too large)" in str(build_study_table(results).caption)
    file.write_text(STUDY.replace("size * how > 2", "True"))
    with pytest.raises(RequestError, match="SKIP leaves out every point"):
        study.run(file, out=tmp_path)
