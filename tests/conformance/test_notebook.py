"""The notebook of the documentation runs from its first cell to its last."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from fl_sim.core.device import use_device

NOTEBOOK = Path(__file__).parents[2] / "docs/notebook.ipynb"
CELLS = [c for c in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
LARGEST = 10_000  # bytes of outputs


@pytest.mark.slow
def test_the_notebook_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "notebook"}
    with use_device("cpu"):
        for cell in CELLS:
            exec(compile("".join(cell["source"]), "notebook", "exec"), names)
            if cell["outputs"]:
                assert capsys.readouterr().out, "a cell prints nothing, and its output is stored"
    assert names["results"].complete
    assert names["robust"].complete


def test_stored_outputs_are_small_texts() -> None:
    outputs = [output for cell in CELLS for output in cell["outputs"]]
    assert all(output["output_type"] == "stream" for output in outputs)
    assert len(json.dumps(outputs)) < LARGEST


def test_every_cell_is_python() -> None:
    for cell in CELLS:
        ast.parse("".join(cell["source"]))
