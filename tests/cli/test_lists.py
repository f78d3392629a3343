"""Lists and descriptions of plug-ins, the version, completion, and the time of the help."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Literal, get_args

import pytest

from fl_sim.cli import catalogue, descriptions
from fl_sim.core.errors import RequestError
from fl_sim.core.literals import Kind

Call = Callable[..., tuple[int, str, str]]


def test_the_help_needs_neither_torch_nor_rich() -> None:
    script = (
        "import sys\n"
        "sys.argv = ['fl-sim', '--help']\n"
        "from fl_sim.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n"
        "    slow = {'torch', 'numpy', 'pandas', 'rich', 'flwr'}\n"
        "    print('SLOW', slow & sys.modules.keys())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    *shown, last = done.stdout.splitlines()
    assert last == "SLOW set()"
    panels = [line.rstrip(":") for line in shown if line.endswith(":") and line[0] != " "]
    assert panels[1:] == ["Experiments", "Results", "Images", "Plug-ins and set-up"]


def test_the_version_is_that_of_the_package(fl_sim: Call) -> None:
    assert fl_sim("--version") == (0, f"fl-sim {version('fl-sim')}\n", "")


def test_commands_and_kinds_are_completed(fl_sim: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FL_SIM_COMPLETE", "complete_bash")
    for words, place, expected in (
        ("fl-sim desc", "1", "describe"),
        ("fl-sim list trig", "2", "triggers"),
    ):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", place)
        assert fl_sim()[1].split() == [expected]


def test_a_list_in_a_pipe_has_a_line_per_entry_and_as_json_a_record(fl_sim: Call) -> None:
    code, out, _ = fl_sim("list", "triggers")
    assert code == 0
    names = [line.split("\t")[0] for line in out.splitlines()]
    assert names == ["Bars", "Blend", "Patch"]
    records = json.loads(fl_sim("list", "triggers", "--json")[1])
    assert [record["name"] for record in records] == names
    assert records[2]["use"] == "fl_sim.triggers: Patch(side=3)"


def test_datasets_read_from_a_path_are_not_called_missing(fl_sim: Call) -> None:
    states = dict(line.split("\t")[:2] for line in fl_sim("data", "list")[1].splitlines())
    own = {name for name, state in states.items() if state == "yours"}
    assert own == {"huggingface", "image_folder", "npz"}
    assert states["digits"] == "found"


def test_networks_of_ones_own_are_listed_as_they_are_written(fl_sim: Call) -> None:
    lines = fl_sim("list", "models")[1].splitlines()
    (own,) = [line.split("\t") for line in lines if line.startswith("MODULE:FUNCTION")]
    assert own[1] == "A network of your own: a function that returns an nn.Module."
    assert own[2].startswith("such as my_package.nets:tiny_vit; a module")


def test_a_description_has_fields_defaults_ranges_and_the_source(fl_sim: Call) -> None:
    code, out, _ = fl_sim("describe", "strategy.Krum")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "strategy Krum, in strategies.krum"
    assert "  num_byzantine: int = 1  (at least 0)" in lines
    assert lines[-1].startswith("Source: Blanchard et al. (2017)")
    file = Path(__file__).parents[2] / "experiments" / "who_does_what.py"
    out = fl_sim("describe", str(file))[1]
    assert out.startswith("clients 0 to 3 protect 70 % of their images from round 1")
    assert "\nclient 9            ...--.....\n" in out
    out = fl_sim("describe", "client.sgd")[1]
    assert "  momentum: float = 0.9  (in [0, 1))" in out
    assert "  local_steps: int or None = None  (at least 1, or None)" in out
    assert "      Settings of the optimiser, which restarts each round." in out
    assert "  countermeasures: tuple of Countermeasure = none" in out
    assert fl_sim("describe", "digits")[1].startswith("dataset digits, in fl_sim.data.sources")


def test_an_unknown_name_is_refused_with_a_suggestion(fl_sim: Call) -> None:
    for name, words in {
        "strategy.Kurm": "did you mean 'Krum'?",
        "strategie.Krum": "did you mean 'strategy'?",
        "Contrast": "several have this name: corruption.Contrast, domain.Contrast",
    }.items():
        code, _, err = fl_sim("describe", name)
        assert code == 2
        assert words in err


@pytest.mark.parametrize("kind", [*catalogue.PACKAGES, "datasets"])
def test_every_plug_in_has_a_description(kind: str) -> None:
    singular = descriptions.SINGULAR[kind]
    for name, cls in catalogue.list_classes(kind).items():
        assert descriptions.find_plugin(f"{singular}.{name}") == (singular, cls)
        lines = descriptions.describe_plugin(singular, cls)
        assert lines[-1].startswith("Source: ")
        assert all(
            field.text for field in descriptions.describe_fields(cls) if kind != "partitions"
        )


def test_there_is_a_singular_of_every_kind_that_is_listed() -> None:
    assert descriptions.SINGULAR.keys() == set(get_args(Kind)) - {"models", "columns"}
    with pytest.raises(RequestError, match="there is no kind 'column'"):
        descriptions.find_plugin("column.label")


def test_types_are_in_words() -> None:
    assert descriptions.name_type(Literal["a"] | None) == "'a' or None"
