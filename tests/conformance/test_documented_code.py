"""The Python code of README and docs runs unchanged."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fl_sim
from fl_sim import EarlyStop, Experiment
from fl_sim.config import experiment_file
from fl_sim.config.sweeps import expand_cells
from fl_sim.core.errors import FieldError
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.scenario import draw_timeline

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
    """Run code as a module, and return its names."""
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


@pytest.mark.parametrize("place", range(len(blocks("docs/experiments.md"))))
@pytest.mark.usefixtures("small_runs")
def test_the_blocks_of_the_experiments_page_run(place: int) -> None:
    names_of(blocks("docs/experiments.md")[place], f"experiments_{place}")


def test_the_experiment_of_the_readme_runs_small(tmp_path: Path) -> None:
    (block,) = blocks("README.md")
    content = names_of(block, "readme_experiment")
    experiment: Experiment = content["EXPERIMENT"]
    for field, value in (SMALL | {"data.num_clients": 20, "data.num_samples": 400}).items():
        experiment = experiment.with_value(field, value)
    experiment = experiment.with_value("protection.max_passes", 1)
    for axis, values in content["AXES"].items():
        experiment = experiment.with_value(axis, values[-1])
    results = fl_sim.run(experiment, seeds=content["SEEDS"][:1], out=tmp_path)
    assert results.cells.accuracy.notna().all()


def test_the_page_of_scenarios_says_what_its_experiment_does() -> None:
    text = (ROOT / "docs/scenarios.md").read_text()
    first, axes, sampler = blocks("docs/scenarios.md")
    names = names_of(first, "scenario_of_the_page")
    asked: Experiment = names["EXPERIMENT"]
    committed = experiment_file.read(ROOT / "experiments/who_does_what.py").experiment
    assert asked == committed
    assert str(names["SCENARIO"]) in " ".join(text.replace("\n> ", " ").split())
    assert draw_timeline(asked) in text
    exec(axes, names)
    assert len(expand_cells(asked, names["AXES"], (0,))) == 2
    names |= {"ErrorMinimizing": ErrorMinimizing, "EarlyStop": EarlyStop}
    clauses = re.findall(r"^\| `(Protects\(.*?\))` \|", text, re.MULTILINE)
    assert len(clauses) >= 7
    for code in [*clauses, *re.findall(r"`((?:Absent|EarlyStop|Stages)\(.*?\))`", text)]:
        assert eval(code, names) is not None
    names_of(sampler, "sampler_of_the_page")
    with pytest.raises(FieldError) as refused:
        asked.with_value("layout.1.first_round", 12)
    assert f"error: {refused.value}" in text


def test_the_findings_of_the_readme_stand_on_their_pages() -> None:
    findings = (ROOT / "README.md").read_text().partition("## Findings")[2].partition("\n## ")[0]
    assert len(re.findall(r"^(?:- |  )", findings, re.MULTILINE)) <= 12, "lines of findings"
    for finding in re.findall(r"^- .*?(?=^- |\n\n|\Z)", findings, re.DOTALL | re.MULTILINE):
        assert find_unsupported(finding) == [], finding


def find_unsupported(text: str) -> list[str]:
    """Return the numbers of a text that are on none of the pages of results that it links to."""
    link = re.compile(r"\]\((?:docs/)?(results/\w+\.md)\)")
    page = "".join((ROOT / "docs" / name).read_text() for name in link.findall(text))
    assert page, text
    return [n for n in re.findall(r"\d[\d.]*\d|\d", link.sub("", text)) if n not in page]


ANSWERS = re.split(r"\n\n|^(?=\| )", (ROOT / "docs/faq.md").read_text(), flags=re.MULTILINE)
MEASURED = [text for text in ANSWERS if "](results/" in text]


@pytest.mark.parametrize("text", MEASURED, ids=lambda text: text[:40])
def test_the_numbers_of_answers_stand_on_their_pages(text: str) -> None:
    words = re.sub(r"`[^`]*`|Lite0|Tier \d|x86-64", "", text)
    assert find_unsupported(words) == [], text


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
        file = page.parent / target if target else page
        assert file.exists(), f"{target} is not there"
        if heading and file.suffix == ".md":
            assert heading in anchors_of(file), f"{target} has no heading {heading}"


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


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


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_to_headings_that_exist(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
