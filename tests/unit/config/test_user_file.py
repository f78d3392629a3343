"""Tests of user files: every error is one line with its place."""

import os
import sys
import warnings
from pathlib import Path

import pytest

from fl_sim.config.experiment_file import read
from fl_sim.config.user_file import load_python
from fl_sim.core.errors import RequestError
from fl_sim.runs import study

HEAD = """from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.data.layout import Layout
from strategies.fedavg import FedAvg
"""
MADE = """EXPERIMENT = Experiment(
    name="small", data=Data(dataset="digits"), client=SgdClient(), strategy=FedAvg()
)
"""
WHOLE = HEAD + MADE  # seven lines


def complaint(folder: Path, text: str | bytes, name: str = "own.py") -> str:
    """Return the error message about a file, without the file's name."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RequestError) as caught:
        read(path)
    words = str(caught.value)
    assert "\n" not in words
    return words.removeprefix(f"{folder}/")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise RuntimeError('oh\\nno')", "own.py:1: RuntimeError: oh no"),
        ("\n\n{}['x']", "own.py:3: KeyError: 'x'"),
        ("from strategies.krum import Kurm", "cannot import name 'Kurm' from 'strategies.krum'; "
         "did you mean 'Krum'?"),
        ("import strategies.kurm", "own.py:1: ModuleNotFoundError: No module named "
         "'strategies.kurm'; did you mean 'strategies.krum'?"),
        ("from strategies._shared.mixing import NearestNeighborMixing", "own.py:1: ImportError: "
         "cannot import name 'NearestNeighborMixing' from 'strategies._shared.mixing'; "
         "NearestNeighborMixing is in strategies.nnm"),
        ("x = 1\nfrom strategies.mixed import (\n    Krum)", "own.py:2: ModuleNotFoundError: No "
         "module named 'strategies.mixed'; Krum is in strategies.krum"),
        ("import fl_sim\nfl_sim.Experment", "no attribute 'Experment'; did you mean 'Experiment'?"),
        (HEAD + "FedAvgg()", "own.py:5: NameError: name 'FedAvgg' is not defined; did you mean "
         "'FedAvg'?"),
        (HEAD + "Layout(clients=3)", "own.py:5: Layout has fraction, unit, provenance, num_owners, "
         "withheld, first_round; no field 'clients'"),
        (HEAD + MADE.replace("client=", "roundz=2, client="), "no field 'roundz'; did you mean "
         "'rounds'?"),
        ("import fl_sim\nfl_sim.Data(datset='x')", "own.py:2: Data has dataset, num_clients, "
         "num_samples, num_test, held_out, path, classes, side, folders; no field 'datset'; did "
         "you mean 'dataset'?"),
        (HEAD + "Experiment(name='x')", "own.py:5: Experiment: missing"),
        ("from flwr.serverapp.strategy import FedAvg\nFedAvg(fraction=1)", "own.py:2: FedAvg has "
         "fraction_train, fraction_evaluate"),
        (HEAD + "def f():\n    return Layout(\n        fraction=3.0)\nf()", "own.py:6: fraction: "
         "between 0 and 1; got 3.0"),
        ("import sys\nsys.exit(3)", "own.py:2: the file ends the program, with exit code 3"),
        ("def f(): f()\nf()", "own.py:1: RecursionError: maximum recursion depth exceeded"),
        ("raise BaseException", "own.py:1: BaseException"),
        ("class E(Exception):\n  def __str__(self): raise ValueError\nraise E", "own.py:3: E"),
        ("import warnings\nwarnings.warn('hm')\nraise UserWarning('x')", "own.py:3: UserWarning: "),
        ("import os\nos.rmdir('/nowhere')", "own.py:2: FileNotFoundError: "),
        ("x = (", "own.py:1: '(' was never closed"),
        ("def f():\nx", "own.py:2: expected an indented block"),
        ("x = 1\0", "own.py: SyntaxError: source code string cannot contain null bytes"),
        ("x = 'é'".encode("latin-1"), "own.py:1: (unicode error) 'utf-8' codec can't decode"),
        ("(" * 3000, "own.py:1: too many nested parentheses"),
    ],
)  # fmt: skip
def test_what_a_file_raises_is_said_with_its_line(
    tmp_path: Path, text: str | bytes, words: str
) -> None:
    assert words in complaint(tmp_path, text)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("AXES = [1]", "AXES maps field paths to lists of values"),
        ("AXES = None", "AXES maps field paths to lists of values"),
        ("AXES = {3: [1]}", "AXES maps field paths to lists of values"),
        ("AXES = {'rounds': 3}", "AXES: rounds: a list of values, or values by label; got 3"),
        ("AXES = {'rounds': 'abc'}", "AXES: rounds: a list of values"),
        ("AXES = {'rounds': {1, 2}}", "AXES: rounds: a list of values"),
        ("AXES = {'rounds': []}", "AXES: rounds: at least one value; got []"),
        ("AXES = {'how': {'a': 3}}", "AXES: how: by label, the fields that it changes"),
        ("AXES = {'how': {'': {}}}", "AXES: how: labels that are words"),
        ("AXES = {'seed': [1, 2]}", "AXES: seed: in SEEDS or --seeds"),
        ("AXES = {'how': {'a': {'seed': 1}}}", "AXES: seed: in SEEDS or --seeds"),
        ("AXES = {'name': ['a', 'b']}", "AXES: name: one for all cells"),
        ("SEEDS = 3", "SEEDS: a list of different whole numbers from 0 to 2^63 - 1; got 3"),
        ("SEEDS = '012'", "SEEDS: a list"),
        ("SEEDS = None", "SEEDS: a list"),
        ("SEEDS = ()", "SEEDS: a list"),
        ("SEEDS = (0, 0)", "got (0, 0)"),
        ("SEEDS = (0, True)", "got True"),
        ("SEEDS = (0, 1.5)", "got 1.5"),
        ("SEEDS = (-1,)", "got -1"),
        ("SEEDS = (2**63,)", "got 9223372036854775808"),
        ("FULL = 3", "FULL: field paths with values"),
        ("FULL = {'rownds': 3}", "no field 'rownds'; did you mean 'rounds'?"),
        ("FULL = {'seed': 3}", "FULL: seed: in SEEDS or --seeds"),
        ("EXPERIMENT = 3", "names no EXPERIMENT; got 3"),
    ],
)
def test_what_a_file_declares_wrongly_is_said_with_its_line(
    tmp_path: Path, line: str, words: str
) -> None:
    text = complaint(tmp_path, f"{WHOLE}{line}\n")
    assert text.startswith("own.py:8")
    assert words in text


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("seed=10**30", "seed: a number within 2^63; got 1000000000000000000000000000000"),
        ("seed=10**5000", "seed: a number within 2^63; got a int that cannot be printed"),
        ("seed=True", "seed: expected int; got True"),
        ("rounds=10**12", "rounds: at most 1,000,000"),
        ("name='a' * 300", "name: at most 200 characters, for a folder"),
        ("name='é' * 150", "name: at most 200 characters, for a folder"),
        ("data=Data(path='a\\0b')", "path: text that can be written to a file"),
        ("data=Data(path='\\ud800')", "path: text that can be written to a file"),
        ("client=SgdClient(learning_rate=10**400)", "learning_rate: a number within 2^63"),
        ("client=SgdClient(learning_rate=float('nan'))", "learning_rate: a finite number"),
        ("strategy=FedAvg", "strategy: expected AggregationRule or Strategy: one of AFL"),
        ("strategy='Kurm'", "did you mean 'Krum'? One of AFL"),
        ("protection='sme'", "protection: expected None or Protection: did you mean 'sem'? One of"),
    ],
)
def test_a_field_that_no_file_or_number_can_hold_is_refused(
    tmp_path: Path, field: str, words: str
) -> None:
    own = {"name": "'a'", "client": "SgdClient()", "strategy": "FedAvg()"}
    own |= dict([field.split("=", 1)])
    made = ", ".join(f"{name}={value}" for name, value in own.items())
    found = complaint(tmp_path, f"{HEAD}EXPERIMENT = Experiment({made})\n")
    if "TypeCheckError" not in found:  # where it is on, it is quicker than our own check
        assert words in found


def test_what_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.py")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    for name, words in {
        "fifo.py": "is no regular file",
        "folder.py": "is a folder",
        "nowhere.py": "there is no experiment file",
        "notes.txt": "is no Python file, nor JSON",
        "a" * 300 + ".py": "cannot read",
        "a\0b.py": "no experiment file",
    }.items():
        with pytest.raises(RequestError, match=words):
            read(tmp_path / name)


def test_an_interrupt_is_no_fault_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_python(path)


def test_a_file_that_clears_the_search_path_is_still_refused_in_words(tmp_path: Path) -> None:
    before = list(sys.path)
    try:
        assert "ZeroDivisionError" in complaint(tmp_path, "import sys\nsys.path.clear()\n1 / 0")
    finally:
        sys.path[:] = before


def test_warnings_of_a_file_are_shown_once_it_has_run(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(f"{WHOLE}import warnings\nwarnings.warn('look here')\n")
    with pytest.warns(UserWarning, match="look here"):
        read(path)
    with warnings.catch_warnings(record=True) as seen:
        complaint(tmp_path, "import warnings\nwarnings.warn('look here')\n1 / 0")
    assert not seen


def test_an_edited_file_is_read_anew_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    for rounds in (3, 4):
        path.write_text(f"{WHOLE}AXES = {{'rounds': [{rounds}]}}\n")
        assert read(path).axes == {"rounds": [rounds]}
    assert [own.name for own in tmp_path.iterdir()] == ["own.py"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def measure(seed): 1\nSEEDS = (1, 1)", "SEEDS: a list of different"),
        ("def measure(seed): 1\nSEEDS = 3", "SEEDS: a list of different"),
        ("def measure(seed): 1\nAXES = {'seed': [1]}", "AXES: seed: in SEEDS"),
        ("def measure(seed, x): 1\nAXES = {'x': 3}", "AXES: x: a list of values"),
        ("def measure(seed, x): 1\nAXES = {'x': []}", "AXES: x: at least one value"),
        ("def measure(seed, x): 1\nAXES = {'x': [1, 1]}", "AXES: x: values that read apart"),
        ("def measure(**fields): 1", "measure takes seed"),
        ("measure = 3", "has no function measure"),
        ("1 / 0", "own.py:1: ZeroDivisionError"),
    ],
)
def test_what_is_no_study_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "own.py"
    path.write_text(text)
    with pytest.raises(RequestError) as caught:
        study.read(path)
    assert words in str(caught.value)


def test_a_study_without_a_question_is_named_after_its_file(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("'''  \n '''\ndef measure(seed): return {}\n")
    assert study.read(path).question == "own"
