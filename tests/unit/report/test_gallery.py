"""The gallery of the experiments."""

import json
from pathlib import Path
from typing import Any

from fl_sim.report import gallery

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "experiments").glob("*.expected.json"))
MOST_BYTES = 1_000_000  # of all figures, which every copy of the repository carries


def entry(number: str, mean: float, **settings: Any) -> dict[str, Any]:
    return {"settings": settings, "number": number, "mean": mean, "spread": 0.01}


def content(*numbers: dict[str, Any]) -> dict[str, Any]:
    return {"experiment": "test", "numbers": list(numbers)}


def test_the_page_and_the_figures_are_those_of_the_expected_files() -> None:
    page = (ROOT / "docs/gallery.md").read_text("utf-8")
    assert page == gallery.render_page(ROOT / "experiments"), "run `make report`"
    figures = sorted((ROOT / "docs/gallery").glob("*.svg"))
    names = [path.name.removesuffix(".expected.json") for path in FILES]
    assert [path.stem for path in figures] == names, "run `make report`"
    assert sum(path.stat().st_size for path in figures) < MOST_BYTES


def test_accuracies_are_drawn_in_percent_beside_those_without_protection() -> None:
    numbers = [entry("accuracy", 0.5, rule="A"), entry("protection.a_all", 0.7, rule="A")]
    numbers += [entry("accuracy", 0.6, rule="B"), entry("protection.a_all", 0.8, rule="B")]
    drawn = gallery.select(content(*numbers))
    assert drawn.axes == {"rule": ["A", "B"], "number": ["A_mix", "A_all"]}
    assert drawn.points["B", "A_all"] == (80, 1)


def test_an_axis_of_numbers_is_the_abscissa() -> None:
    numbers = [entry("auc", n / 10, rule=r, clients=n) for n in (1, 2, 4) for r in "ABCD"]
    drawn = gallery.select(content(*numbers))
    assert list(drawn.axes) == ["clients", "rule"]


def test_further_axes_are_fixed_at_their_first_value_and_named() -> None:
    axes = [(a, b, c, d) for a in "abcd" for b in "efg" for c in "hi" for d in "jk"]
    names = ("one", "two", "three", "data.four")
    numbers = [entry("auc", 0.5, **dict(zip(names, key, strict=True))) for key in axes]
    drawn = gallery.select(content(*numbers))
    assert list(drawn.axes) == ["one", "two", "three"]
    assert len(drawn.points) == 4 * 3 * 2
    assert gallery.draw(content(*numbers))[1] == "Shown at four j."


def test_a_figure_keeps_the_digits_of_its_text() -> None:
    svg, _ = gallery.draw(content(*(entry("auc", n, rule=str(n)) for n in (0.125, 0.25))))
    assert ">0.125<" in svg
    assert svg.startswith("<svg ")
    assert len(svg) < 10_000


def test_every_expected_file_has_something_to_draw() -> None:
    for path in FILES:
        drawn = gallery.select(json.loads(path.read_text("utf-8")))
        assert drawn.points, path.name
