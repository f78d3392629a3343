"""The tables of docs/scale.md: costs are found again, and predictions follow from them."""

import json
from pathlib import Path

import pytest

from benchmarks.pages import GeneratedTable, write_table
from benchmarks.scale import Cost, fit_cost, format_tables, format_time, select_points

COST = Cost(0.005, 0.0002, 2e-9)
GRID = [(10, "0.001"), (1000, "0.001"), (100, "0.1"), (10, "1"), (100, "1"), (100, "25")]


def rows(engine: str) -> list[dict[str, object]]:
    return [
        {
            "workload": "W0",
            "case": f"{clients} clients x {size}M",
            "engine": engine,
            "cpu_seconds": COST.predict(clients, 1e6 * float(size)),
        }
        for clients, size in GRID
    ]


def test_a_cost_is_found_again_in_what_it_gives() -> None:
    assert fit_cost(select_points(rows("local"), "local")) == pytest.approx(COST, rel=1e-6)


def test_rows_of_other_engines_and_workloads_do_not_count() -> None:
    others = [{"workload": "W1", "case": "small", "engine": "local", "cpu_seconds": 1.0}]
    assert select_points(rows("ray") + others, "local") == []


def test_the_page_gets_its_tables_between_its_marks(tmp_path: Path) -> None:
    page, results = tmp_path / "scale.md", tmp_path / "results.json"
    page.write_text("before\n<!-- overhead -->\nold\n<!-- /overhead -->\nafter\n")
    results.write_text(json.dumps(rows("local") + rows("ray")[:2]))
    for _ in range(2):
        write_table(GeneratedTable("scale.md", "overhead", results, format_tables), tmp_path)
    text = page.read_text()
    assert text.startswith("before\n<!-- overhead -->\n| engine")
    assert text.endswith("<!-- /overhead -->\nafter\n")
    assert "old" not in text
    assert "| local | 5 | 0.2 | 2 | 6 | x 1.0 |" in text
    assert "| 1,000,000 | 1,000 | 3.4 min |" in text
    assert "ray" not in text  # two cases are too few to fit three numbers


def test_a_page_without_results_stays_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "scale.md"
    page.write_text("<!-- overhead -->\n<!-- /overhead -->\n")
    write_table(
        GeneratedTable("scale.md", "overhead", tmp_path / "none.json", format_tables), tmp_path
    )
    assert page.read_text() == "<!-- overhead -->\n<!-- /overhead -->\n"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.25, "0.25 s"), (90, "1.5 min"), (7200, "2 h"), (1e6, "12 d")]
)
def test_times_are_in_the_unit_that_suits_them(seconds: float, words: str) -> None:
    assert format_time(seconds) == words
