"""Equal results on Flower's deployment runtime: a SuperLink and two SuperNodes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fl_sim import run
from fl_sim.config import experiment_file
from fl_sim.core import user_modules

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
EXPERIMENT = "experiments/quickstart.py"
FIELDS = [
    "data.dataset=digits",
    "data.num_samples=100",
    "data.num_test=60",
    "data.num_clients=2",
    "model.backbone=small_cnn",
    "model.init=random",
    "model.tune=full",
    "layout.fraction=0",
    "rounds=2",
]
PATIENCE = 900.0  # seconds; every message starts a process that imports everything


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for own in sockets:
            own.bind(("127.0.0.1", 0))
        return [own.getsockname()[1] for own in sockets]
    finally:
        for own in sockets:
            own.close()


def processes_of(home: Path) -> list[int]:
    """Return every process that was started with this Flower home, whoever its parent is."""
    wanted, found = f"FLWR_HOME={home}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # it has just ended, or is somebody else's
            continue
    return found


@contextmanager
def deployment(home: Path, nodes: int) -> Iterator[dict[str, str]]:
    """Start a SuperLink and SuperNodes on loopback; yield the environment that reaches them."""
    port, *others = free_ports(1 + nodes)
    env = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }
    home.mkdir()
    link = f'[superlink]\ndefault = "dep"\n\n[superlink.dep]\naddress = "127.0.0.1:{port}"\n'
    (home / "config.toml").write_text(link + "insecure = true\n")
    stay = "--disable-runtime-dependency-installation"
    commands = [["flower-superlink", stay, "--host", "127.0.0.1", "--port", str(port)]]
    for number, own in enumerate(others):
        config = f"partition-id={number} num-partitions={nodes}"
        commands.append(
            ["flower-supernode", "--superlink", f"127.0.0.1:{port}", "--port", str(own)]
        )
        commands[-1] += ["--node-config", config]
    started = []
    try:
        for command in commands:
            with (home / f"{command[0]}-{len(started)}.log").open("w") as log:
                line = [str(BIN / command[0]), "--insecure", *command[1:]]
                started.append(subprocess.Popen(line, env=env, cwd=home, stdout=log, stderr=log))
            _await_port(int(command[command.index("--port") + 1]))
        yield env
    finally:
        _end_all(home)
        for process in started:
            process.wait()


def _await_port(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens on port {port}")


def _end_all(home: Path) -> None:
    for kind in (signal.SIGTERM, signal.SIGKILL):
        for number in processes_of(home):
            try:
                os.kill(number, kind)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + 10
        while processes_of(home) and time.monotonic() < deadline:
            time.sleep(0.1)


APP = """
[project]
name = "mine"
version = "1.0.0"

[tool.flwr.app]
publisher = "me"

[tool.flwr.app.components]
serverapp = "fl_sim.flower.server_app:app"
clientapp = "fl_sim.flower.client_app:app"

[tool.flwr.app.config]
experiment = "mine.py"
set = ""
seed = 0
out = ""
plugins = "mylab"
"""


def write_app(folder: Path) -> Path:
    """Write an app of a user, with an experiment and plug-ins of its own."""
    shutil.copytree(ROOT / "tests" / "fixtures" / "mylab", folder / "mylab")
    shutil.copy(ROOT / EXPERIMENT, folder / "mine.py")
    (folder / "pyproject.toml").write_text(APP)
    return folder


@pytest.mark.parametrize("whose", ["ours", "a user's"])
def test_two_supernodes_give_the_bits_of_one_process(
    tmp_path: Path, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, out, fields = tmp_path / "flwr", tmp_path / "out", FIELDS
    app, experiment_path = ROOT, ROOT / EXPERIMENT
    if whose != "ours":
        monkeypatch.setattr(user_modules, "_declared", {})
        monkeypatch.setattr(sys, "path", list(sys.path))
        app = write_app(tmp_path / "app")
        user_modules.declare(str(app / "mylab"))
        experiment_path, fields = app / "mine.py", [*FIELDS, "strategy=LabMean"]
    name = experiment_path.relative_to(app)
    config = f"experiment='{name}' seed=0 out='{out}' set='{' '.join(fields)}'"
    with deployment(home, nodes=2) as env:
        done = subprocess.run(
            [str(BIN / "flwr"), "run", str(app), "dep", "--run-config", config],
            env=env,
            cwd=home,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        deadline = time.monotonic() + PATIENCE
        while not (found := list(out.glob("*/*/*/result.json"))):
            logs = "\n".join(path.read_text()[-2000:] for path in home.glob("*.log"))
            assert time.monotonic() < deadline, logs
            time.sleep(0.2)
        deployed = json.loads(found[0].read_text())
    assert not processes_of(home), "something is left running"
    experiment = experiment_file.read(experiment_path, fields).experiment
    local = run(experiment, [0], out=tmp_path / "local", controls=False)
    assert deployed["failures"] == []
    assert deployed["params_sha256"] == local.cells.params_sha256[0]
    assert deployed.get("plugins_sha256") == local.cells.get("plugins_sha256", [None])[0]
