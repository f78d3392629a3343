"""`fl-sim tradeoffs`: fronts of a finished sweep as a table, CSV and figure, and wrong requests."""

import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from fl_sim import cli
from fl_sim.core.errors import RequestError
from fl_sim.results import load_results
from fl_sim.results.quantities import RunNumbers

_path = Path(__file__).parents[1] / "unit" / "report" / "conftest.py"
_spec = importlib.util.spec_from_file_location("synthetic_results_of_cli", _path)
assert _spec is not None
assert _spec.loader is not None
_synthetic = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _synthetic
_spec.loader.exec_module(_synthetic)

AXES = {"model.tune": ["head", "full"], "strategy": ["FedAvg", "Krum"]}
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of all results, with one sweep."""
    folder = tmp_path_factory.mktemp("runs")
    sweep = _synthetic.Sweep(axes=AXES, seeds=(0, 1, 2), rounds=1)
    return Path(_synthetic.write_sweep(folder / "toy", sweep).path).parent


@pytest.fixture
def call(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def tradeoffs(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fl-sim", "tradeoffs", str(runs), *words])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    return tradeoffs


def test_fronts_are_a_table_a_file_and_a_figure(call: Call, tmp_path: Path) -> None:
    csv, figure = tmp_path / "t.csv", tmp_path / "t.png"
    y = ("--y", "accuracy", "--y", "worst_client", "--y", "auc")
    code, out, _ = call("--x", "cpu_seconds", *y, "--csv", str(csv), "--figure", str(figure))
    assert code == 0
    assert "Pareto fronts against CPU seconds" in out
    assert "Krum" in out
    table = pd.read_csv(csv)
    assert len(table) == 4
    states = table.filter(regex="_state$")
    assert list(states) == [
        *("accuracy_state", "fairness_worst_client_state", "mia_margin_auc_state", "all_state")
    ]
    assert (states == "front").any().all()
    assert (
        table["cost.cpu_seconds"]
        .between(table["cost.cpu_seconds_low"], table["cost.cpu_seconds_high"])
        .all()
    )
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert call("--figure", str(tmp_path / "t.svg"))[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--y", "acuracy"), r"no quantity 'acuracy' in .*; did you mean 'accuracy'\?$"),
        (("--y", "utility_gap"), "whether protection.utility_gap is better higher or lower is not"),
        (("--y", "bytes"), "--y: quantities other than --x"),
        (("--maximize", "loss"), "--maximize: one of cost.bytes, accuracy; got 'loss'"),
        (
            ("--maximize", "accuracy", "--minimize", "accuracy"),
            "--maximize: a quantity that the other option lacks",
        ),
        (("--within", "rank"), "no axis 'rank'"),
        (("--figure", "t.gif"), r"--figure: a file that ends in \.svg or \.png"),
        (("--csv", "/nowhere/t.csv"), "--csv: a file in an existing folder"),
        (("--confidence", "1"), "is not in the range"),
        (("--y", "shift_auc"), "no setting has cost.bytes and mia_shift_auc: .* pools is empty"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(
    call: Call, words: tuple[str, ...], message: str
) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert re.search(message, err), err
    assert err.count("\n") == 1


def test_a_direction_may_be_given(call: Call) -> None:
    assert call("--y", "utility_gap", "--minimize", "utility_gap")[0] == 0


def test_a_folder_without_runs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fl-sim", "tradeoffs", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "no results of runs in" in capsys.readouterr().err


def test_a_sweep_without_finished_runs_has_no_quantity(runs: Path) -> None:
    results = load_results(runs / "toy")
    unfinished = replace(results, cells=results.cells.assign(status="failed"))
    with pytest.raises(RequestError, match="no finished run in"):
        RunNumbers(unfinished).find("accuracy")
