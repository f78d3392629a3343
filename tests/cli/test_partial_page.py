"""An interrupted sweep leaves the page of the runs that had finished, and of those alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fl_sim import Experiment
from fl_sim.cli import execution
from fl_sim.config.sweeps import plan_cells
from fl_sim.core import interrupts
from fl_sim.results import load_results
from fl_sim.runs import summary
from fl_sim.runs.progress import Progress
from fl_sim.runs.run_options import RunOptions

AXES = {"client.learning_rate": [0.01, 0.05, 0.1]}


def test_an_interrupted_sweep_leaves_a_partial_page(
    experiment: Callable[..., Experiment],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = dict.fromkeys([""])

    def listen(progress: Progress) -> None:
        labels[progress.label] = None
        if len(labels) == 3 and progress.round == 1:  # the second run, after its first round
            interrupts.request_stop()

    @contextmanager
    def show_progress(*arguments: Any) -> Iterator[Callable[[Progress], None]]:
        yield listen

    monkeypatch.setattr(execution, "show_progress", show_progress)
    grid = plan_cells(experiment(), AXES, [0])
    with pytest.raises(SystemExit) as stop:
        execution.execute(grid, RunOptions(tmp_path, controls=False), "none")
    assert stop.value.code == 130
    assert "continue with --resume" in capsys.readouterr().err
    results = load_results(tmp_path / "test")
    assert list(results.cells["status"]) == ["finished", "failed", "failed"]
    assert not results.complete
    page = (tmp_path / "test" / "report.html").read_text()
    assert "Some runs did not finish" in page
    assert "2 FAILED" in page
    assert "interrupted after round 1" in page
    assert "interrupted before it began" in page
    assert f"{100 * results.cells['accuracy'][0]:.1f}" in page
    interrupts.set_flag(None)


def test_a_sweep_that_goes_on_has_a_summary_of_the_runs_so_far(
    experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed sweep can be reported on, and `fl-sim watch` shows one that runs."""
    monkeypatch.setattr(summary, "UPDATE_PAUSE", 0.0)
    seen: list[list[tuple[str, str]]] = []
    write = summary.write_summary

    def note(root: Path, *content: Any) -> None:
        write(root, *content)
        cells = load_results(root).cells
        seen.append(list(zip(cells["status"], cells.get("error", [""] * 2), strict=True)))

    monkeypatch.setattr(summary, "write_summary", note)
    grid = plan_cells(experiment(rounds=1), {"client.learning_rate": [0.01, 0.05]}, [0])
    execution.runner.run_grid(grid, RunOptions(tmp_path, controls=False), lambda progress: None)
    assert seen[0][0][0] == "finished"
    assert seen[0][1] == ("failed", "not finished")
