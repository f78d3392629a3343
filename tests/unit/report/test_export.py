import re
import shutil
import subprocess
import zlib
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from fl_sim import cli
from fl_sim.core.atomic_io import read_json
from fl_sim.core.errors import RequestError
from fl_sim.report import page
from fl_sim.report.components import Cell, Drawing, Section, Table, build_table
from fl_sim.report.export import build_frame, format_latex, list_parts, select_parts
from fl_sim.report.grid import build_grid
from fl_sim.report.sections.accuracy_over_rounds import draw_accuracy_over_rounds
from fl_sim.report.verdicts import CHANCE_LEVEL

COMMANDS = {  # of LaTeX itself, booktabs and array
    *("begin", "end", "centering", "caption", "label", "toprule", "midrule", "bottomrule"),
    *("textsuperscript", "footnotesize", "par", "smallskip", "raggedright", "arraybackslash"),
    *("textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater"),
    *("textbar", "textquotedbl", "pm", "cdot", "times", "to", "leq", "geq", "infty"),
}
HOSTILE = r"50 % of a_mix & {b}^2 ~ $c$ #1 \def <x> ± 2 → ≥ |y| \\"


def check_latex(text):
    """Check what pdflatex would refuse, and return the cells of each row."""
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert body.isascii()
    commands = set(re.findall(r"\\([A-Za-z]+)", body))
    assert commands <= COMMANDS, commands - COMMANDS
    opened = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        assert what == "begin" or opened.pop() == name
        opened += [name] if what == "begin" else []
    assert opened == []
    plain = re.sub(r"\\[&%$#_{}\\]", "", body)
    assert plain.count("$") % 2 == 0
    words = re.sub(r"\$[^$]*\$", "", plain)
    assert not re.search(r"[#^~<]|(?<!p\{5cm\})>(?!\{)", re.sub(r"begin\{tabular\}.*", "", words))
    assert "_" not in re.sub(r"\\label\{[^}]*\}", "", words)
    assert "%" not in words
    depth = 0
    for sign in plain:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth >= 0
    assert depth == 0
    (columns,) = re.findall(r"\\begin\{tabular\}\{(.*)\}\n", body)
    count = len(re.sub(r">\{\\raggedright\\arraybackslash\}p\{5cm\}", "p", columns))
    inside = body[body.index(r"\toprule") : body.index(r"\bottomrule")]
    lines = [line[4:] for line in inside.splitlines() if "rule" not in line and line.strip()]
    rows = [re.split(r"(?<!\\) & ", line.removesuffix(r" \\")) for line in lines]
    assert all(line.endswith(r" \\") for line in lines)
    assert {len(row) for row in rows} == {count}
    return rows


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        address = dict(attrs).get("href", "#") if tag == "a" else "#"
        self.found += [] if address.startswith("#") else [address]


@pytest.fixture(scope="module")
def results(make_results, sweep):
    axes = {"strategy": ["FedAvg", "Krum(num_byzantine=1)"], "layout.fraction": [0.0, 0.5]}
    lost = ({"round": 1, "client": 2, "cause": "ValueError: a_b & 5 % {x}"},)
    fails = {"strategy": "Krum(num_byzantine=1)", "layout.fraction": 0.5}
    return make_results(
        sweep(axes=axes, seeds=(0, 1), lost=lost, broken=lambda s, seed: s == fails and seed == 1)
    )


def save_blank(figure, file, **options):
    file.write(b'<svg viewBox="0 0 1 1"></svg>' if options["format"] == "svg" else b"")


@pytest.fixture(scope="module")
def written(results):
    with pytest.MonkeyPatch.context() as patch:  # rendering takes most of the time
        patch.setattr(Figure, "savefig", save_blank)
        patch.setattr(ConstrainedLayoutEngine, "execute", lambda engine, figure: None)
        text = page.write_page(results).read_text()
        return results.path, text, list_parts(page.build_sections(build_grid(results)))


@pytest.fixture(scope="module")
def drawing(results):
    return draw_accuracy_over_rounds(build_grid(results))


def test_the_page_links_to_every_file_of_its_tables_and_figures(written):
    path, text, parts = written
    linked = Links(text).found
    assert linked == [f"export/{name}" for part in parts for name in part.files.values()]
    assert sorted(linked) == sorted(f"export/{p.name}" for p in (path / "export").iterdir())
    assert len(linked) == len(set(linked)) > 20
    assert text.count("<figure ") + text.count("<table") == len(parts)


def test_a_page_that_was_not_written_to_a_folder_has_no_links(written):
    _, _, parts = written
    section = Section("a", "A", (), (parts[0].content,))
    assert Links(page.render_html("t", [section], complete=True)).found == []


def test_every_csv_file_is_the_frame_behind_its_table(written):
    path, _, parts = written
    tables = [part for part in parts if isinstance(part.content, Table)]
    assert {"key_numbers", "runs_by_setting"} <= {part.name for part in tables}
    for part in tables:
        frame = build_frame(part.content)
        pd.testing.assert_frame_equal(pd.read_csv(path / f"export/{part.name}.csv"), frame)
        assert len(frame) == len(part.content.rows) > 0


def test_the_key_numbers_are_those_of_the_results(written, results):
    frame = pd.read_csv(written[0] / "export/key_numbers.csv")
    cells = results.cells[results.cells["status"] == "finished"]
    for _, row in frame.iterrows():
        is_own = cells["settings.strategy"] == row["strategy"]
        own = 100 * cells[is_own & (cells["settings.layout.fraction"] == row["fraction"])].accuracy
        assert row["A_mix, %"] == pytest.approx(own.mean(), abs=0.51)
        if len(own) > 1:
            assert row["A_mix, % ±"] == pytest.approx(own.std(), abs=0.51)
    notes = "; ".join(frame["A_mix, % note"].dropna()).split("; ")
    assert notes.count("1 failed") == 1
    assert {*notes} <= {"1 failed", "no different from the highest"}
    assert "everything is protected, so nothing is clean" not in set(frame.columns)


def test_numbers_intervals_seeds_and_reasons_become_columns():
    rows = [
        [Cell("a"), Cell("1,234.5 ± 0.2", extra="[-0.1, 0.5]"), Cell("0.50 (1/2)")],
        [Cell("b"), Cell("-", doubt="no run finished"), Cell("-1.2e-05", verdict=CHANCE_LEVEL)],
    ]
    frame = build_frame(build_table("Some", ["name"], ["x, %", "y"], rows))
    wanted = {
        "name": ["a", "b"],
        "x, %": [1234.5, np.nan],
        "x, % ±": [0.2, np.nan],
        "x, % low": [-0.1, np.nan],
        "x, % high": [0.5, np.nan],
        "x, % note": [np.nan, "no run finished"],
        "y": [0.5, -1.2e-05],
        "y seeds": ["1/2", np.nan],
        "y note": [np.nan, "no different from chance level"],
    }
    pd.testing.assert_frame_equal(frame, pd.DataFrame(wanted))


def test_merged_headings_are_repeated_in_csv_and_blank_in_latex():
    rows = [[Cell("x"), Cell("1"), Cell("2.0")], [Cell("x"), Cell("2"), Cell("3.0 ± 0.1")]]
    table = build_table("Some", ["one", "two"], ["n"], rows)
    frame = build_frame(table)
    assert frame["one"].tolist() == ["x", "x"]
    assert frame["two"].tolist() == [1, 2]
    assert check_latex(format_latex(table, "some")) == [
        ["one", "two", "n"],
        ["x", "$1$", "$2.0$"],
        ["", "$2$", r"$3.0 \pm 0.1$"],
    ]


def test_every_latex_file_is_well_formed(written):
    path, _, parts = written
    for part in parts:
        if isinstance(part.content, Table):
            text = (path / f"export/{part.name}.tex").read_text()
            rows = check_latex(text)
            assert len(rows) == 1 + len(part.content.rows)
            assert rf"\label{{tab:{part.name}}}" in text


def test_hostile_words_are_escaped():
    cells = [Cell(HOSTILE), Cell("0.5", doubt=HOSTILE, extra=HOSTILE), Cell(HOSTILE, alarm=HOSTILE)]
    text = format_latex(build_table(HOSTILE, [HOSTILE], [HOSTILE, "b"], [cells]), "some")
    assert len(check_latex(text)) == 2
    assert r"\textsuperscript{1} 50 \% of a\_mix \& \{b\}\textasciicircum{}2" in text
    assert r"\textbackslash{}def" in text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_pdflatex_compiles_every_table(written, tmp_path):
    path, _, parts = written
    names = [path / "export" / p.name for p in parts if isinstance(p.content, Table)]
    packages = r"\documentclass{article}\usepackage{booktabs,array}\usepackage[T1]{fontenc}"
    inputs = "".join(rf"\input{{{name}.tex}}" for name in names)
    (tmp_path / "all.tex").write_text(rf"{packages}\begin{{document}}{inputs}\end{{document}}")
    call = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_figures_are_exported_with_text_that_can_be_searched(drawing):
    svg, pdf = drawing.render("svg").decode(), drawing.render("pdf")
    assert ">round</text>" in svg
    assert "DejaVu Sans" in svg
    assert pdf.startswith(b"%PDF")
    assert b"/FontFile2" in pdf  # TrueType, as publishers ask for
    assert b"/Type3" not in pdf
    streams = re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL)
    shown = b"".join(zlib.decompress(s) for s in streams if s[:1] == b"x")
    assert re.search(rb" T[jJ]\b", shown)
    assert (drawing.render("svg").decode(), drawing.render("pdf")) == (svg, pdf)


def test_tables_are_the_same_each_time_and_old_files_are_removed(written, tmp_path):
    sections = [Section("a", "A", (), (part.content,)) for part in written[2]]
    tables = [s for s in sections if isinstance(s.components[0], Table)]
    page.write_files(tmp_path, tables)
    before = {file.name: file.read_bytes() for file in (tmp_path / "export").iterdir()}
    (tmp_path / "export/old.csv").write_text("a\n1\n")
    page.write_files(tmp_path, tables)
    assert {file.name: file.read_bytes() for file in (tmp_path / "export").iterdir()} == before


def test_a_figure_is_rendered_again_only_if_it_changed(tmp_path):
    rendered = []

    def draw(svg):
        def render(form):
            rendered.append(form)
            return f"{svg} as {form}".encode()

        return Drawing("one", "One", svg, svg, render)

    def write(svg, **options):
        rendered.clear()
        links = page.write_files(tmp_path, [Section("a", "A", (), (draw(svg),))], **options)
        return rendered, [form for form, _ in next(iter(links.values()))]

    assert write("<svg/>", slow=False) == ([], ["SVG"])
    assert write("<svg/>") == (["pdf", "png"], ["PDF", "SVG"])
    assert write("<svg/>") == ([], ["PDF", "SVG"])
    assert write("<svg></svg>", slow=False) == (["pdf", "png"], ["PDF", "SVG"])
    assert (tmp_path / "export/one.svg").read_text() == "<svg></svg>"
    assert (tmp_path / "export/one.pdf").read_text() == "<svg></svg> as pdf"


def test_parts_are_chosen_by_name_and_an_unknown_name_is_refused(written):
    parts = written[2]
    chosen = select_parts(parts, Drawing, ["accuracy_o*", "images_1"])
    assert [part.name for part in chosen] == ["accuracy_over_rounds", "images_1"]
    assert len(select_parts(parts, Table, [])) > 3
    with pytest.raises(RequestError, match=r"--name key matches none of key_numbers, "):
        select_parts(parts, Table, ["key"])


def test_alike_captions_get_names_of_their_own():
    table = build_table("A: b", ["x"], ["y"], [[Cell("1"), Cell("2")]])
    other = build_table("A", ["x"], ["y"], [[Cell("1"), Cell("3")]])
    parts = list_parts([Section("s", "S", (), (table, other))])
    assert [part.name for part in parts] == ["a", "a_2"]


@pytest.fixture
def fl_sim(monkeypatch, capsys):
    """Return a caller of the command line, which gives the exit code and what was printed."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["fl-sim", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), *capsys.readouterr()

    return call


@pytest.mark.usefixtures("blank_figures")
def test_the_command_writes_what_was_asked_for(results, tmp_path, fl_sim):
    out = tmp_path / "paper" / "parts"
    code, text, _ = fl_sim("export", "tables", results.path, "--out", out, "--name", "key_*")
    assert code == 0
    assert text == f"wrote {out}/key_numbers.csv\nwrote {out}/key_numbers.tex\n"
    code, _, _ = fl_sim("export", "figures", results.path, "--out", out, "-n", "membership_roc")
    assert code == 0
    ends = {path.name for path in out.iterdir()}
    names = ("key_numbers.csv", "key_numbers.tex", "membership_roc.pdf", "membership_roc.svg")
    assert ends == set(names)


def test_numbers_of_damaged_results_are_told(results, tmp_path, fl_sim):
    path = tmp_path / results.path.name
    shutil.copytree(results.path, path)
    first = read_json(path / "summary.json")["cells"][0]
    result = path / first["run_id"] / f"seed={first['seed']}" / "result.json"
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text("[]")
    for command in (["export", "tables", path, "--out", tmp_path / "out"], ["compare", path, path]):
        code, _, error = fl_sim(*command)
        assert code == 1
        assert error.startswith(f"damaged: {result}: ")


@pytest.mark.usefixtures("blank_figures")
def test_a_wrong_request_is_one_line_and_writes_nothing(results, tmp_path, fl_sim):
    out = tmp_path / "parts"
    code, _, error = fl_sim("export", "tables", results.path, "--out", out, "-n", "nothing")
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith("error: --name nothing matches none of key_numbers, ")
    code, _, error = fl_sim("export", "figures", tmp_path, "--out", out)
    assert (code, error) == (2, f"error: no results in {tmp_path}: summary.json is missing\n")
    out.symlink_to(tmp_path)
    code, _, error = fl_sim("export", "tables", results.path, "--out", out)
    assert code == 2
    assert "is a symbolic link" in error
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]
