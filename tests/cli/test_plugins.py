"""Plug-ins of a user's own, in a package outside this repository: one of each kind."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from fl_sim import Experiment, run
from fl_sim.cli import checks, execution
from fl_sim.core import user_modules
from fl_sim.core.literals import Kind
from fl_sim.runs.progress import Progress

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
OWN = {
    "protections": "Speckle",
    "countermeasures": "Dim",
    "strategies": "LabMean",
    "clients": "ShyClient",
    "metrics": "Doubt",
    "attacks": "Sureness",
    "datasets": "turned_digits",
    "models": "lab_linear",
    "partitions": "Dealt",
    "corruptions": "Darkness",
    "domains": "Tint",
    "planted": "PlantedNothing",
    "triggers": "Dot",
    "samplers": "LastFirst",
}
FILE = '''
"""Do plug-ins of one's own run?"""

from clients.backdoor import BackdoorClient
from clients.sgd import SgdClient
from fl_sim import Adversary, Data, Evaluation, Experiment, Model
from fl_sim.data.layout import Layout
from fl_sim.experiment import Corruptions
from fl_sim.protections.random_noise import RandomNoise
from strategies.fedavg import FedAvg
{more}
EXPERIMENT = Experiment(
    name="own",
    data=Data(dataset="digits", num_clients=4, num_samples=120, num_test=60),
    model=Model("small_cnn"),
    protection=RandomNoise(),
    layout=Layout(fraction=0.5),
    client=SgdClient(),
    strategy=FedAvg(),
    evaluation=Evaluation(corruptions={corruptions}),
    adversary=Adversary(BackdoorClient(), num_clients=1),
    rounds=2,
)
'''
NAMES = {
    "strategy": "LabMean",
    "client": "ShyClient",
    "protection": "speckle",
    "partition": "Dealt",
    "data.dataset": "turned_digits",
    "model.backbone": "lab_linear",
    "adversary.client.trigger": "Dot",
    "client.honest.countermeasures": "Dim",
}
BY_NAME = [part for field, name in NAMES.items() for part in ("--set", f"{field}={name}")]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Work in a folder that holds one experiment, with no plug-ins declared."""
    monkeypatch.setattr(user_modules, "_declared", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv(user_modules.VARIABLE, raising=False)
    monkeypatch.setattr(execution, "show", lambda results, terminal: None)  # the page takes long
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(FILE.format(more="", corruptions='Corruptions(("darkness",))'))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("mylab", "beside")]:
        del sys.modules[name]
    user_modules._read_module.cache_clear()


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """Return a copy of the package, outside the repository and Python's path."""
    return shutil.copytree(FIXTURES / "mylab", tmp_path / "elsewhere" / "mylab")


def read_results(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(root.glob("own/*/*/result.json"))]


def test_the_package_has_a_plug_in_of_every_kind() -> None:
    assert OWN.keys() == set(get_args(Kind)) - {"columns"}


def test_all_kinds_are_listed(fl_sim: Call, lab: Path) -> None:
    for kind, name in OWN.items():
        code, out, err = fl_sim("list", kind, "--json", "--plugins", str(lab))
        assert code == 0, err
        assert name in {entry["name"] for entry in json.loads(out)}, kind
    code, out, _ = fl_sim("list", "strategies")
    assert "LabMean\tA part of the weighted mean.\tthis project." in out


def test_parts_are_set_by_name_run_recorded_and_resumed(fl_sim: Call, lab: Path) -> None:
    run = ["run", "own.py", "--workers", "1", "--no-controls", "--out", "runs"]
    run += ["--plugins", str(lab), *BY_NAME]
    code, _, err = fl_sim(*run)
    assert code == 0, err
    (result,) = read_results(Path("runs"))
    hashed = {word.split(":")[0] for word in result["plugins_sha256"].split()}
    parts = {f"mylab.{name}" for name in ("clients", "data", "images", "numbers", "rules")}
    assert hashed == parts | {"mylab.strength"}  # which the rule imports
    assert "mylab.nets" in result["model_sha256"]
    (file,) = Path("runs").glob("own/*/*/experiment.json")
    written = json.loads(file.read_text())
    assert written["strategy"] == {"class": "mylab.rules.LabMean", "part": 0.5}
    assert written["client"]["honest"]["countermeasures"] == [{"class": "mylab.images.Dim"}]

    def stamp() -> int:
        return (file.parent / "result.json").stat().st_mtime_ns

    first = stamp()
    assert fl_sim(*run, "--resume")[0] == 0
    assert stamp() == first
    (lab / "strength.py").write_text('"""A number."""\n\nSTRENGTH = 0.25\n')
    user_modules._read_module.cache_clear()  # as in another process
    assert fl_sim(*run, "--resume")[0] == 0
    assert stamp() != first
    code, _, err = fl_sim("run", str(file), "--out", "again", "--no-controls")
    assert code == 0, err


def test_a_checkpoint_of_other_code_is_refused(
    fl_sim: Call, lab: Path, tmp_path: Path, experiment: Callable[..., Experiment]
) -> None:
    user_modules.declare(str(lab))
    rule = user_modules.import_module("mylab.rules").LabMean()

    def stop(progress: Progress) -> None:
        raise ValueError("broken off")

    wanted = experiment(strategy=rule, rounds=3)
    run(wanted, out=tmp_path, controls=False, listen=stop)
    text = (lab / "strength.py").read_text()
    (lab / "strength.py").write_text(f"{text}# changed\n")
    user_modules._read_module.cache_clear()  # as in another process
    results = run(wanted, out=tmp_path, controls=False, resume=True)
    assert "of other plug-ins" in results.cells.error[0]
    (lab / "strength.py").write_text(text)
    user_modules._read_module.cache_clear()
    assert run(wanted, out=tmp_path, controls=False, resume=True).complete


def test_a_module_beside_the_experiment_is_found(fl_sim: Call, tmp_path: Path, lab: Path) -> None:
    folder = tmp_path / "far"
    shutil.copytree(lab, folder / "mylab")
    text = FILE.format(more="from mylab.rules import LabMean\n", corruptions="None")
    (folder / "own.py").write_text(text.replace("FedAvg(),", "LabMean(),"))
    arguments = ["run", "far/own.py", "--no-controls", "--out", "runs", "--workers", "1"]
    fields = ["strategy=LabMean", "strategy.part=1", "model.backbone=mylab.nets:small"]
    code, _, err = fl_sim(*arguments, *(part for field in fields for part in ("--set", field)))
    assert code == 0, err
    (result,) = read_results(Path("runs"))
    assert result["plugins_sha256"].startswith("mylab.rules:")
    assert "model_sha256" in result


def test_what_is_not_declared_is_refused_before_any_work(
    fl_sim: Call, tmp_path: Path, lab: Path
) -> None:
    assert fl_sim("run", "own.py", "--out", "runs", "--plugins", str(lab), "--no-controls")[0] == 0
    (file,) = Path("runs").glob("own/*/*/experiment.json")
    described = json.loads(file.read_text()) | {"strategy": {"class": "mylab.rules.LabMean"}}
    file.with_name("other.json").write_text(json.dumps(described))
    user_modules._declared.clear()
    (tmp_path / "plain.py").write_text(FILE.format(more="", corruptions="None"))
    path = "mylab.rules.LabMean"
    requests: dict[str, list[str]] = {
        "did you mean": ["run", "own.py", "--set", "strategy=LabMena"],
        "of your own are named by --plugins": ["run", "plain.py", "--set", f"strategy={path}"],
        "modules named by --plugins": ["run", str(file.with_name("other.json"))],
        "no module 'mylaab'": ["run", "own.py", "--plugins", "mylaab"],
        "darkness": ["run", "own.py"],
    }
    for words, arguments in requests.items():
        more = ["--plugins", str(lab)] if words == "did you mean" else []
        code, _, err = fl_sim(*arguments, *more, "--out", "refused")
        assert code == 2
        assert len(err.strip().splitlines()) == 1
        assert words in err
        user_modules._declared.clear()
    assert not Path("refused").exists()


def test_names_of_this_project_are_not_taken(fl_sim: Call, tmp_path: Path, lab: Path) -> None:
    rules = (lab / "rules.py").read_text().replace("LabMean", "Krum")
    (tmp_path / "beside.py").write_text(rules)
    code, _, err = fl_sim("list", "strategies", "--plugins", "beside", "--plugins", str(lab))
    assert code == 2
    assert "two plug-ins have the name Krum: beside.Krum and strategies.krum.Krum" in err


def test_a_foreign_package_of_our_name_is_named_in_one_line(fl_sim: Call, tmp_path: Path) -> None:
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "own.py").write_text("X = 1\n")
    code, _, err = fl_sim("run", "own.py")
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert f"{tmp_path}/clients hides the package 'clients' of fl-sim" in err


APP = """
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
text = "no app"


@app.train()
def train(message: Message, context: Context) -> Message:
    content = {"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})}
    return Message(RecordDict(content), reply_to=message)
"""


def test_a_client_app_of_ones_own_is_named_by_a_flag(fl_sim: Call, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FILE.format(more="", corruptions="None"))
    (tmp_path / "beside.py").write_text(APP)
    run = ["run", "own.py", "--no-controls", "--workers", "1", "--out", "runs", "--client-app"]
    for text, words in {
        "beside": "a module and a name",
        "nowhere:app": "no module 'nowhere'",
        "beside:text": "the name of a ClientApp of Flower in beside; got 'text'",
    }.items():
        code, _, err = fl_sim(*run, text)
        assert code == 2
        assert words in err
    assert not Path("runs").exists()
    code, _, err = fl_sim(*run, "beside:app", "--set", "adversary=none")
    assert code == 0, err
    (result,) = read_results(Path("runs"))
    assert "client_app" in result["made_with"]
    assert result["failures"] == []


def test_the_wheel_has_the_tests_that_a_check_runs() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    wanted = {f"tests/conformance/{file}" for file in checks.FILES.values()}
    assert {path for path in included if path.startswith("tests/conformance")} == wanted


def shell(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call a program of this environment in a folder, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def alone(fl_sim: Call, tmp_path: Path, lab: Path) -> list[dict[str, Any]]:
    """Return the results of two seeds, run one after another in this process."""
    code, _, err = fl_sim("run", "own.py", *RUN, "--workers", "1", "--plugins", str(lab))
    assert code == 0, err
    return read_results(tmp_path / "runs")


RUN = [*BY_NAME, "--no-controls", "--seeds", "0,1", "--out", "runs"]
ENGINES = [  # with one seed, the workers of Ray train single clients
    pytest.param("local", "0,1", "variable", marks=pytest.mark.slow),
    pytest.param("ray", "0,1", "option", marks=pytest.mark.ray),
    pytest.param("ray", "0", "option", marks=pytest.mark.ray),
    pytest.param("flower", "0", "entry point", marks=pytest.mark.ray),
]


@pytest.mark.parametrize(("engine", "seeds", "way"), ENGINES)
def test_every_engine_gives_the_same_bits_with_two_workers(
    engine: str, seeds: str, way: str, alone: list[dict[str, Any]], tmp_path: Path, lab: Path
) -> None:
    more = ["--out", "parallel", "--engine", engine, "--workers", "2", "--seeds", seeds]
    environment = {"FL_SIM_PLUGINS": str(lab)} if way == "variable" else {}
    if way == "option":
        more += ["--plugins", str(lab)]
    if way == "entry point":
        info = lab.parent / "mylab-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mylab\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[fl_sim.strategies]\nmylab = mylab\n")
        environment["PYTHONPATH"] = f"{lab.parent}{os.pathsep}{ROOT}"
    done = shell(tmp_path, "fl_sim", "run", "own.py", *RUN, *more, **environment)
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path / "parallel")
    assert len(results) == len(seeds.split(","))
    for one, other in zip(results, alone, strict=False):
        assert one["params_sha256"] == other["params_sha256"]
        assert one["plugins_sha256"] == other["plugins_sha256"]


@pytest.mark.slow
def test_the_conformance_tests_run_on_the_package(tmp_path: Path, lab: Path) -> None:
    done = shell(tmp_path, "fl_sim", "check", str(lab))
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("LabMean", "ShyClient", "Speckle", "Doubt", "Dealt", "TurnedDigits"):
        assert name in done.stdout.splitlines()[0]
    clients = lab / "clients.py"
    clients.write_text(clients.read_text().replace("0.5 * (", "torch.rand(()) * ("))
    done = shell(tmp_path, "fl_sim", "check", str(clients))
    assert done.returncode == 1
    assert "test_nothing_is_drawn_from_the_global_generator[ShyClient]" in done.stdout


@pytest.mark.slow
def test_new_files_pass_their_tests_and_the_conformance_tests(fl_sim: Call, tmp_path: Path) -> None:
    kinds = ("strategy", "client", "protection", "metric", "experiment")
    folder = tmp_path / "new"
    for kind in kinds:
        code, out, err = fl_sim("new", kind, f"Lab{kind.title()}", "--out", str(folder))
        assert code == 0, err
        assert f"wrote {folder}/test_lab_{kind}.py" in out
        before = (folder / f"lab_{kind}.py").read_bytes()
        code, _, err = fl_sim("new", kind, f"Lab{kind.title()}", "--out", str(folder))
        assert (code, len(err.splitlines())) == (2, 1)
        assert (folder / f"lab_{kind}.py").read_bytes() == before
    done = shell(folder, "pytest", "-q", "-p", "no:cacheprovider", ".")
    assert done.returncode == 0, done.stdout
    done = shell(folder, "fl_sim", "check", *(f"lab_{kind}" for kind in kinds[:-1]))
    assert done.returncode == 0, done.stdout
    assert "checking LabProtection, LabStrategy, LabClient, LabMetric" in done.stdout


SMALL = (
    "--set data.dataset=digits --set data.num_samples=200 --set data.num_test=40 --rounds 1 "
    "--set model.backbone=small_cnn --set model.init=random --set model.tune=full --no-controls"
)


@pytest.mark.slow
def test_the_commands_of_the_guide_run(tmp_path: Path) -> None:
    section = (
        (ROOT / "docs" / "extending.md").read_text().partition("## Outside this repository")[2]
    )
    block = section.partition("```bash\n")[2].partition("```")[0].strip()
    assert block.endswith("--set strategy=MyRule")
    script = f'fl-sim() {{ "{sys.executable}" -m fl_sim "$@"; }}\n{block} {SMALL}\n'
    done = subprocess.run(
        ["bash", "-e", "-c", script.replace("\npython ", f'\n"{sys.executable}" ')],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "server_learning_rate: float = 1.0  (above 0)" in done.stdout
    (path,) = tmp_path.glob("runs/quickstart/*/*/experiment.json")
    assert json.loads(path.read_text())["strategy"]["class"] == "my_rule.MyRule"
