"""However many cells a sweep has, its page draws and reads no more, and says so."""

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from fl_sim.report import grid, page, panels
from fl_sim.report.components import Drawing
from fl_sim.results import Results

AXES = {"client.epochs": list(range(3)), "layout.fraction": [0.1, 0.2, 0.3]}
NOTE = "The first 2 of 3 panels are drawn; the numbers of all settings are in the tables"


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Counts panels, tables and archives of a page whose figures are not rendered."""
    found = dict.fromkeys(("panels", "tables", "archives"), 0)

    def save(figure: Figure, file: Any, **options: Any) -> None:
        found["panels"] += len(figure.axes) * (options["format"] == "svg")
        file.write(b'<svg viewBox="0 0 1 1"></svg>' if options["format"] == "svg" else b"")

    def counted(name: str, function: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def read(path: Path) -> Any:
            found[name] += 1
            return function(path)

        return read

    monkeypatch.setattr(panels, "MANY_SETTINGS", 4)
    monkeypatch.setattr(panels, "FEW_PANELS", 2)
    monkeypatch.setattr(Figure, "savefig", save)
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda engine, figure: None)
    monkeypatch.setattr(grid, "read_table", counted("tables", grid.read_table))
    monkeypatch.setattr(grid, "read_arrays", counted("archives", grid.read_arrays))
    return found


def captions(results: Results) -> str:
    sections = page.build_sections(grid.build_grid(results))
    parts = [part for section in sections for part in section.components]
    return " ".join(part.caption for part in parts if isinstance(part, Drawing))


def test_work_does_not_grow_with_the_number_of_cells(
    make_results: Callable[..., Results], sweep: Any, counts: dict[str, int]
) -> None:
    found = []
    for number in (3, 9):
        counts.update(dict.fromkeys(counts, 0))
        captions(make_results(sweep({"client.epochs": range(number), "rounds": range(3)})))
        found.append(dict(counts))
    assert found[0] == found[1]
    assert min(found[0].values()) > 0


def test_what_is_left_out_is_told(
    make_results: Callable[..., Results], sweep: Any, counts: dict[str, int]
) -> None:
    results = make_results(sweep(AXES))
    text = captions(results)
    assert text.count(NOTE) == 3  # over rounds, against the fraction, ROC curves
    assert text.count("The first 2 settings are drawn; 7 more are in rows.parquet.") == 3


def test_nothing_is_left_out_of_a_small_page(
    make_results: Callable[..., Results],
    sweep: Any,
    counts: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(panels, "MANY_SETTINGS", len(AXES) * 12)
    assert "are drawn;" not in captions(make_results(sweep(AXES)))
    assert counts["panels"] > 30


@pytest.mark.slow
def test_a_page_of_500_cells_takes_little_processor_time(
    make_results: Callable[..., Results], sweep: Any
) -> None:
    """It takes about 7 CPU seconds; benchmarks/pages_cost.py measures it on real runs."""
    axes = {"client.epochs": list(range(25)), "layout.fraction": [0.0, 0.25, 0.5, 0.75, 1.0]}
    results = make_results(sweep(axes, seeds=(0, 1, 2, 3)))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "fl_sim", "report", str(results.path)]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 20
    assert (results.path / "report.html").exists()
