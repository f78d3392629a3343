"""Comparison of the bits of two checkouts: `python -m benchmarks.same_bits OLD NEW`.

Small experiments on all engines, an audit and a study run in both checkouts. The hashes of the
final models, and of the numbers of audit and study, are compared, for a change that must not move
any number. The exit code is 1 if a hash differs.
"""

import hashlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

STUDY = """
import tempfile
from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model, run
from fl_sim.data.partition import Iid
from strategies.fedavg import FedAvg
AXES = {"size": [60, 120]}
SEEDS = (0, 1)

def measure(seed, size):
    data = Data(dataset="digits", num_clients=3, num_samples=size, num_test=60)
    parts = {"client": SgdClient(), "strategy": FedAvg(), "partition": Iid()}
    experiment = Experiment(name="one", data=data, model=Model("mlp"), rounds=1, seed=seed, **parts)
    with tempfile.TemporaryDirectory() as out:
        rows = run(experiment, out=out, controls=False).rows
    return {"loss": float(rows[rows.metric == "loss"].value.iloc[0])}
"""
RUN = "import sys; sys.path[0] = ''; from same_bits import run_all; run_all()"


def list_cases() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return fields of the experiment and options of the run, by name of the case."""
    from clients.alie import AlieClient
    from clients.dp_sgd import DpSgdClient
    from clients.fedbn import FedBNClient
    from clients.fedprox import FedProxClient
    from clients.scaffold import ScaffoldClient
    from clients.sgd import SgdClient
    from clients.sign_flip import SignFlipClient
    from fl_sim import Adversary, Model, Participation
    from fl_sim.data.layout import Layout
    from fl_sim.protections.error_minimizing import ErrorMinimizing
    from fl_sim.protections.linear_separable import LinearSeparable
    from strategies.differential_privacy import DifferentialPrivacy
    from strategies.fedadam import FedAdam
    from strategies.fednova import FedNova
    from strategies.krum import Krum, MultiKrum
    from strategies.nnm import NearestNeighborMixing
    from strategies.scaffold import SCAFFOLD
    from strategies.trimmed_mean import TrimmedMean

    plain = Model("small_cnn", norm="group")
    half = Layout(0.5)
    em = ErrorMinimizing(radius=16 / 255, form="class")
    lora = Model("small_cnn", tune="lora", norm="group")
    mlp = Model("mlp")
    batched = "batch_clients" if find_spec("fl_sim.runs") else "cohort"  # its name until 0.2
    return {
        "FedAvg": ({}, {}),
        "FedAvg on Ray": ({}, {"engine": "ray", "workers": 2}),
        "FedAvg on Flower": ({}, {"engine": "flower", "workers": 2}),
        "batched": ({"model": mlp}, {batched: "on"}),
        "not batched": ({"model": mlp}, {batched: "off"}),
        "Krum": ({"strategy": Krum(1)}, {}),
        "FedAdam": ({"strategy": FedAdam()}, {}),
        "FedNova": ({"strategy": FedNova()}, {}),
        "SCAFFOLD": ({"strategy": SCAFFOLD(), "client": ScaffoldClient()}, {}),
        "FedProx": ({"client": FedProxClient()}, {}),
        "BatchNorm": ({"model": Model("small_cnn")}, {}),
        "FedBN": ({"model": Model("small_cnn"), "client": FedBNClient()}, {}),
        "LoRA": ({"model": lora}, {}),
        "protected by EM": ({"protection": em, "layout": half, "model": plain}, {}),
        "protected by LSP": ({"protection": LinearSeparable(), "layout": half}, {}),
        "attacked": ({"adversary": Adversary(SignFlipClient()), "strategy": TrimmedMean(1)}, {}),
        "colluding": (
            {"adversary": Adversary(AlieClient(), num_clients=1), "strategy": MultiKrum(1)},
            {},
        ),
        "mixed before a trimmed mean": (
            {"strategy": NearestNeighborMixing(rule=TrimmedMean(1))},
            {},
        ),
        "private clients": ({"strategy": DifferentialPrivacy(noise_multiplier=1.0)}, {}),
        "private images, some absent": (
            {"client": DpSgdClient(), "participation": Participation(3, drop_out=0.2)},
            {},
        ),
        "SGD with a decaying rate": ({"client": SgdClient(learning_rate_decay=0.9)}, {}),
    }


def run_all() -> None:
    """Run every case in this checkout, and print the hashes as JSON."""
    from clients.sgd import SgdClient
    from fl_sim import Data, Experiment, Model, run
    from fl_sim.data.partition import Iid
    from strategies.fedavg import FedAvg

    usual: dict[str, Any] = {
        "name": "same_bits",
        "client": SgdClient(),
        "strategy": FedAvg(),
        "model": Model("small_cnn", norm="group"),
        "partition": Iid(),
        "data": Data(dataset="digits", num_clients=6, num_samples=240, num_test=60),
        "rounds": 2,
    }
    hashes = {}
    for name, (fields, how) in list_cases().items():
        with tempfile.TemporaryDirectory() as out:
            try:
                results = run(Experiment(**(usual | fields)), out=out, controls=False, **how)
                cell = results.cells.iloc[0]
                hashes[name] = str(cell.get("params_sha256", cell.get("error")))
            except Exception as error:  # the other cases still have to be compared
                hashes[name] = f"{type(error).__name__}: {error}"
    with tempfile.TemporaryDirectory() as out:
        hashes["an audit"] = _hash_audit(Experiment(**usual), Path(out))
        hashes["a study"] = _hash_study(Path(out))
    print(json.dumps(hashes))


def _hash_audit(experiment: Any, out: Path) -> str:
    """Return a hash of the numbers that an audit finds, with two replays as references."""
    from fl_sim import run
    from fl_sim.audit.session import audit

    results = run(experiment, out=out, controls=False)
    folder = results.path / str(results.cells.run_id[0]) / f"seed={experiment.seed}"
    numbers = audit(folder, tier=1, references=2).select_dtypes("number")
    return hashlib.sha256(numbers.to_csv().encode()).hexdigest()


def _hash_study(out: Path) -> str:
    """Return a hash of the numbers of a study with four points."""
    home = "fl_sim.runs.study" if find_spec("fl_sim.runs") else "fl_sim.study"  # until 0.2
    path = out / "measured.py"
    path.write_text(STUDY)
    numbers = importlib.import_module(home).run(path, out=out / "runs").numbers
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()


def hashes_of(checkout: Path) -> dict[str, str]:
    """Return the hashes of a checkout, from a separate process and cache."""
    with tempfile.TemporaryDirectory() as folder:
        paths = os.pathsep.join((str(checkout), str(Path(__file__).parent)))
        variables = {"PYTHONPATH": paths, "FL_SIM_CACHE": folder}
        call: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
        done = call(
            [sys.executable, "-c", RUN],
            cwd=folder,
            env={**os.environ, **variables},
            text=True,
            stdout=subprocess.PIPE,
            check=True,
        )
    hashes: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    return hashes


def main() -> int:
    """Compare two checkouts; return 1 if a hash differs."""
    old, new = (hashes_of(Path(path).resolve()) for path in sys.argv[1:3])
    same = [name for name in new if old.get(name) == new[name] and len(new[name]) == 64]
    for name in new:
        if name not in same:
            print(f"{name}: {old.get(name)}, now {new[name]}")
    print(f"{len(same)} of {len(new)} have the same bits")
    return 0 if len(same) == len(new) else 1


if __name__ == "__main__":
    sys.exit(main())
