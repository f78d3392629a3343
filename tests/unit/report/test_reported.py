"""The page that sets the tables of papers beside ours, and the verdicts computed for it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fl_sim.core.errors import RequestError
from fl_sim.report import reported
from fl_sim.report.reported import Measured, Verdict, compare

TABLES = """\
[[papers]]
title = "A Paper: With a Subtitle"
source = "Somebody (2020)"
note = "Its code is public."

[[papers.tables]]
name = "Table 1"
shows = "noise"
images = "photographs"
quoted = "its table"
reported = { clean = 94.5, weak = 50 }
orders = ["strong < weak", "weak < clean", "strong < 0.5", "strong < other"]
unmeasured = ["other"]
missing = "the other noise."

[[papers.tables.ours]]
experiment = "toy"
[papers.tables.ours.rows]
clean = ["weak noise", "protection.a_all"]
weak = "weak noise"
strong = "strong noise"

[[papers.tables]]
shows = "faces"
images = "faces"
orders = ["strong < weak"]
missing = "there are no faces here."
"""


def entry(noise: str, number: str, mean: float) -> dict[str, Any]:
    return {"settings": {"noise": noise}, "number": number, "mean": mean, "spread": 0.03}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with tables and one expected file."""
    numbers = [
        entry("weak noise", "accuracy", 0.6),
        entry("weak noise", "protection.a_all", 0.63),
        entry("strong noise", "accuracy", 0.3),
    ]
    content = {"images": "A few.", "seeds": [0, 1, 2], "numbers": numbers}
    (tmp_path / "toy.expected.json").write_text(json.dumps(content))
    (tmp_path / reported.FILE).write_text(TABLES)
    return tmp_path


def change(folder: Path, old: str, new: str) -> None:
    file = folder / reported.FILE
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_papers_and_ours_stand_side_by_side_with_an_arrow_per_order(folder: Path) -> None:
    page = reported.render_page(folder)
    link = "[toy](results/toy.md)"
    assert f"|  | Reported | {link} |\n|---|---|---|\n| clean | 94.5 | 63.0 ± 3.0 |" in page
    assert "| strong |  | 30.0 ± 3.0 |\n| other |  | · |" in page
    orders = page.partition(f"| Order reported | {link} |\n|---|---|\n")[2].partition("\n\n")[0]
    assert orders.splitlines() == [
        "| strong < weak | ↑ |",
        "| weak < clean | ↔ |",
        "| strong < 0.5 | ↑ |",
        "| strong < other | · |",
    ]
    assert "Not measured here: the other noise." in page
    assert "Of 2 tables or parts of one, 1 are measured here, some in part. Of 3 orders" in page
    assert "2 agree, 0 are reversed, and 1 are not told apart" in " ".join(page.split())


def test_a_table_without_numbers_of_ours_says_so(folder: Path) -> None:
    page = reported.render_page(folder)
    assert "| A Paper | [Faces](#faces) | not measured | · |" in page
    assert "Order reported: strong < weak.\n\nNot measured here: there are no faces here." in page


def test_parts_of_one_experiment_are_told_apart(folder: Path) -> None:
    change(folder, 'experiment = "toy"', 'experiment = "toy"\npart = "colour"')
    page = reported.render_page(folder)
    assert "|  | Reported | [toy](results/toy.md) colour |" in page
    assert "| Order reported | [toy](results/toy.md) colour |" in page
    assert "Ours: [toy](results/toy.md): A few." in page


def test_the_arrows_follow_our_numbers(folder: Path) -> None:
    file = folder / "toy.expected.json"
    file.write_text(file.read_text().replace('"mean": 0.3', '"mean": 0.9'))
    page = reported.render_page(folder)
    assert "| strong < weak | ↓ |" in page
    assert "| [Table 1: noise](#table-1-noise) | toy | ↓ 2 ↔ 1 · 1 |" in page


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('experiment = "toy"', 'experiment = "toi"', "there is no toi.expected.json"),
        ('weak = "weak noise"', 'weak = "week noise"', "at 'week noise'; did you mean 'weak"),
        ('"protection.a_all"]', '"protection.a_al"]', "toy has no protection.a_al at"),
        ('"strong < weak", "w', '"strong < weal", "w', "names 'weal'; did you mean 'weak'"),
        ('"strong < weak", "w', '"strong, weak", "w', "expected an order such as 'A < B'"),
        ('missing = "there are no faces here."', "", "'faces' needs `ours`, or a reason"),
        ('quoted = "its table"', 'quoter = "its table"', "unexpected keyword argument 'quoter'"),
        ("[[papers]]", "[[papers", "reported.toml: "),
    ],
)
def test_a_reference_that_does_not_resolve_is_refused(
    folder: Path, old: str, new: str, message: str
) -> None:
    change(folder, old, new)
    with pytest.raises(RequestError) as refused:
        reported.render_page(folder)
    assert message in str(refused.value)


def test_the_page_is_written_beside_the_index(folder: Path) -> None:
    assert reported.write_page(folder, folder) == "measured"
    assert (folder / "measured.md").read_text() == reported.render_page(folder)


def test_a_number_of_one_seed_among_several_is_not_told_apart(folder: Path) -> None:
    assert "| strong < weak | ↑ |" in reported.render_page(folder)
    path = folder / "toy.expected.json"
    content = json.loads(path.read_text())
    content["numbers"][2] |= {"spread": 0.0, "seeds": 1}
    path.write_text(json.dumps(content))
    assert "| strong < weak | ↔ |" in reported.render_page(folder)


means = st.floats(-1, 1)
spreads = st.floats(0.001, 1)


@given(means, means, spreads, spreads, st.integers(2, 10))
def test_an_order_and_its_opposite_get_opposite_verdicts(
    a: float, b: float, s: float, t: float, seeds: int
) -> None:
    values = {"a": Measured(a, s, seeds), "b": Measured(b, t, seeds)}
    errors = abs(b - a) / ((s**2 + t**2) / seeds) ** 0.5
    assume(abs(errors - 2) > 1e-9)
    expected = (Verdict.AGREES, Verdict.REVERSED) if errors > 2 else (Verdict.UNDECIDED,) * 2
    assert (compare("a < b", values), compare("b < a", values)) == expected[:: 1 if b >= a else -1]


def test_numbers_of_one_seed_are_not_told_apart() -> None:
    values = {"a": Measured(0.1, 0.0, 1), "b": Measured(0.9, 0.0, 1)}
    assert compare("a < b", values) is Verdict.UNDECIDED
    assert compare("0.5 < b", values) is Verdict.UNDECIDED
