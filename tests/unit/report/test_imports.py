"""The report needs no PyTorch, and the command line imports it only for commands that do."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl_sim.cli.terminal import importing
from fl_sim.core.plugins import PACKAGES, find_paragraph, read_docstring
from fl_sim.report.sections import attacks
from fl_sim.results import Results

ROOT = Path(__file__).parents[3]
HEAVY = ("torch", "torchvision", "flwr", "ray", "scipy.stats")
CODE = f"""
import sys
{{}}
print("loaded:", *(name for name in {HEAVY!r} if name in sys.modules))
"""


def loaded_by(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def command(*words: str) -> str:
    return f"from fl_sim.cli import app; app({list(words)!r}, standalone_mode=False)"


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import fl_sim",
        "import fl_sim.report.page, fl_sim.report.study, fl_sim.report.expected",
        command("--help"),
        command("sweep", "--help"),
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert loaded_by(code) == "loaded:"


@pytest.mark.slow
def test_a_run_imports_no_statistics_of_scipy() -> None:  # half a second
    assert "scipy.stats" not in loaded_by("import fl_sim; fl_sim.run").split()


@pytest.mark.slow
def test_a_page_is_made_of_results_alone(make_results: Callable[..., Results], sweep: Any) -> None:
    results = make_results(sweep({"layout.fraction": [0.0, 0.5]}))
    assert loaded_by(command("report", str(results.path))) == "loaded:"
    assert (results.path / "report.html").exists()


@pytest.mark.slow
def test_a_run_and_an_audit_without_flower_import_neither_it_nor_ray(tmp_path: Path) -> None:
    sizes = ["data.num_clients=2", "data.num_samples=60", "data.num_test=20", "rounds=1"]
    fields = [*sizes, "data.dataset=digits", "strategy=FedAvg"]
    fields += ["model.backbone=small_cnn", "model.init=random", "model.tune=full"]
    changes = [part for field in fields for part in ("--set", field)]
    file = ROOT / "experiments" / "quickstart.py"
    options = ["--engine", "local", "--no-controls", "--out", str(tmp_path)]
    run = command("run", str(file), *options, *changes)
    assert not {"flwr", "ray"} & {*loaded_by(run).split()}
    (folder,) = tmp_path.glob("quickstart/*/*/result.json")
    audit = command("audit", str(folder.parent))
    assert not {"flwr", "ray"} & {*loaded_by(audit).split()}


def test_windows_is_refused_in_one_line() -> None:
    code = "import sys; sys.platform = 'win32'; import fl_sim"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    line = done.stderr.splitlines()[-1]
    assert line == "ImportError: fl_sim runs on Linux and macOS; on Windows, use it in WSL 2"


@pytest.mark.slow
def test_errors_of_flower_are_shown_and_progress_is_not() -> None:
    code = (
        "from fl_sim.core.process import silence_logs; silence_logs(); import flwr, logging\n"
        "logging.getLogger('flwr').info('fitting'); logging.getLogger('flwr').error('it failed')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "it failed" in done.stdout + done.stderr
    assert "fitting" not in done.stdout + done.stderr


def test_a_threat_model_is_read_and_not_imported() -> None:
    text = read_docstring("clients.sign_flip.SignFlipClient")
    assert text.splitlines()[0].endswith(".")
    assert find_paragraph(text, attacks.THREAT)


@pytest.mark.parametrize(
    "path",
    [
        "clients.sign_flip.Gone",
        "clients.gone.SignFlipClient",
        "os.path.PathLike",
        "clients",
        "clients.SgdClient",
        "clients.../../secrets.Class",
        "",
    ],
)
def test_what_is_no_class_of_a_plug_in_has_no_text(path: str) -> None:
    assert read_docstring(path) == ""
    assert PACKAGES == ("fl_sim", "strategies", "clients")


def test_an_interrupt_is_told_of_as_before_once_all_is_imported() -> None:
    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background
        "from fl_sim.cli.terminal import importing\n"
        "with importing(): pass\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "with importing(): os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "interrupted before it began\n")
    with importing():
        pass
