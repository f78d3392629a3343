import base64
import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from fl_sim.report import page
from fl_sim.report.components import Cell, build_table

FRACTIONS = {"layout.fraction": [0.0, 0.5]}
VOID = {"meta", "link", "br", "wbr", "img", "hr", "input"}


class Outline(HTMLParser):
    """Collect ids and links, and check that every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.resources, self.open = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.open += [tag] if tag not in VOID else []
        self.ids += [attributes["id"]] if "id" in attributes else []
        names = ("src", "href", "xlink:href", "srcset", "data", "action")
        targets = [attributes[name] for name in names if name in attributes]
        (self.links if tag == "a" else self.resources).extend(targets)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open = self.open[:-1] if tag not in VOID else self.open

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def results(make_results, sweep):
    return make_results(sweep(axes=FRACTIONS, seeds=(0, 1)))


@pytest.fixture(scope="module")
def text(results):
    return page.write_page(results).read_text()


def test_the_page_is_one_file_that_loads_nothing(text):
    outline = Outline(text)
    assert [link for link in outline.resources if not link.startswith(("#", "data:"))] == []
    assert text.count("<script") == 1
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []


def test_the_page_may_load_nothing_and_run_only_its_own_script(text):
    """A name that got past the escaping could still neither run nor call home."""
    own = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    assert own is not None
    digest = base64.b64encode(hashlib.sha256(own[1].encode()).digest()).decode()
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    assert policy is not None
    rules = [rule.strip() for rule in policy[1].split(";")]
    assert rules[:3] == ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:"]
    assert policy.start() < min(text.find("<style"), text.find("<link"), text.find("<title"))
    assert rules[3] == f"script-src 'sha256-{digest}'"
    assert not re.search(r"\son\w+=|javascript:", text.replace(own[1], ""))


def test_ids_are_unique_and_links_lead_to_them_or_to_files(results, text):
    outline = Outline(text)
    assert len(outline.ids) == len(set(outline.ids))
    inner = {link.removeprefix("#") for link in outline.links if link.startswith("#")}
    assert inner <= set(outline.ids)
    files = [link for link in outline.links if not link.startswith("#")]
    assert all(re.fullmatch(r"export/\w+\.\w{3}", file) for file in files)
    assert all((results.path / file).is_file() for file in files)


def test_every_figure_is_also_a_file(results, text):
    names = re.findall(r'<figure id="(\w+)"', text)
    assert set(names) == {
        "answer",
        "accuracy_over_rounds",
        "accuracy_against_fraction",
        "accuracy_by_client",
        "accuracy_spread",
        "accuracy_and_leakage",
        "classes_by_client",
        "membership_roc",
        "shares_over_rounds",
        "images_1",
    }
    for name in names:
        assert (results.path / f"figures/{name}.svg").read_text().rstrip().endswith("</svg>")
        assert (results.path / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert text.count('role="img"') == len(names)


def test_writing_again_gives_the_same_page_and_removes_old_figures(results, text):
    (results.path / "figures/old.svg").write_text("<svg/>")
    assert page.write_page(results).read_text() == text
    assert not (results.path / "figures/old.svg").exists()
    assert not list(results.path.rglob("*.partial"))


def test_title_and_accuracies(results, text):
    assert "<title>toy on Fashion-MNIST</title>" in text
    cells = results.cells
    own = cells[cells["settings.layout.fraction"] == 0.5]
    mean, spread = own["accuracy"].mean(), own["accuracy"].std()
    places = int(spread < 0.1)  # a spread of two digits before the point leaves none after it
    wanted = rf"{100 * mean:.{places}f}(<i> ≈</i>)?\s*<small>± {100 * spread:.{places}f}</small>"
    assert re.search(wanted, text)
    assert "mean ± sample standard deviation over 2 seeds" in text


def test_numbers_that_should_not_be_read_are_grey_with_their_reason(text):
    assert '<td class="doubt" title="120 non-members; 300 needed">' in text
    assert "<li>120 non-members; 300 needed</li>" in text
    assert '<td class="doubt" title="one of the pools is empty">-<sup>' in text


@pytest.mark.usefixtures("blank_figures")
def test_with_enough_non_members_nothing_is_grey(make_results, sweep):
    text = page.write_page(make_results(sweep(num_non_members=3000))).read_text()
    assert "3000 needed" not in text


def test_intervals_reach_from_the_lowest_to_the_highest_bound(results, text):
    rows = results.rows
    run = results.cells.iloc[0]["run_id"]
    last = rows[(rows["round"] == 3) & (rows["run_id"] == run) & (rows["group"] == "all")]
    areas = last[last["metric"] == "mia_margin_auc"]
    assert f"[{areas['low'].min():.3f}, {areas['high'].max():.3f}]" in text


@pytest.mark.usefixtures("blank_figures")
def test_a_single_run(make_results, sweep):
    text = page.write_page(make_results(sweep())).read_text()
    assert "one seed, no spread" in text
    assert "Accuracy against the protected share" not in text
    assert "Protected images" not in text
    assert 'id="failures"' not in text


@pytest.mark.usefixtures("blank_figures")
def test_failures_are_shown_and_escaped(make_results, sweep):
    lost = ({"round": 1, "client": 2, "cause": "ValueError: <b>NaN</b>"},)
    results = make_results(sweep(seeds=(0, 1), broken=lambda settings, seed: seed == 1, lost=lost))
    text = page.write_page(results).read_text()
    assert "Some runs did not finish" in text
    assert "RunFailed: [no] &lt;updates&gt;" in text
    assert "ValueError: &lt;b&gt;NaN&lt;/b&gt;" in text
    assert "1 FAILED" in text
    assert '<small class="alarm">1 failed</small>' in text


def test_nothing_finished(make_results, sweep):
    results = make_results(sweep(broken=lambda settings, seed: True))
    text = page.write_page(results).read_text()
    Outline(text)
    assert "1 FAILED" in text
    assert "<svg" not in text


def test_equal_headings_are_merged_but_never_across_a_change_to_the_left():
    rows = [[Cell(a), Cell(b), Cell(c)] for a, b, c in ("xpa", "xpb", "ypa", "ypb")]
    made = build_table("", ["one", "two", "three"], [], rows)
    assert [[cell.rows for cell in row] for row in made.rows] == [
        [2, 2, 1],
        [0, 0, 1],
        [2, 2, 1],
        [0, 0, 1],
    ]


def test_drawing_touches_no_global_state():
    code = "import sys, fl_sim.report.page; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("word", ["torch", "flwr", "pyplot"])
def test_the_report_itself_imports_neither(word):
    for path in page.Path(page.__file__).parent.rglob("*.py"):
        assert not re.search(rf"^\s*(import|from) .*\b{word}\b", path.read_text(), re.MULTILINE)
