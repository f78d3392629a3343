"""Environment of a run: versions, commits, machine and switches, which its bits depend on."""

import os
import platform
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fl_sim.core.atomic_io import DamagedFileError, read_json
from fl_sim.core.device import current_device, name_accelerator
from fl_sim.core.portable import is_portable
from fl_sim.core.precision import current_precision

DISTRIBUTION = "fl-sim"
# These choose the instructions of a sum, and so its last bits.
SWITCHES = (
    *("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_DEBUG_CPU_TYPE"),
    *("MKL_ENABLE_INSTRUCTIONS", "MKL_NUM_THREADS", "NPY_DISABLE_CPU_FEATURES"),
    *("OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE"),
)
COMPARED = (
    *("fl_sim", "python", "torch", "flwr", "numpy", "machine", "processor", "capability"),
    *("device", "accelerator", "deterministic", "precision", "portable"),
)


def describe_environment(engine: str, project: Path | None = None) -> dict[str, Any]:
    """Return versions, commits, the machine, and the switches that choose its instructions.

    Args:
        engine: Engine of the run.
        project: Folder of the user's own work; None for the working folder.

    Returns:
        A dict of JSON values. `commit` is the commit of fl_sim's own sources, or None if it was
        installed without them; `project_commit` is the commit of the repository around `project`,
        or None if there is none.
    """
    device = current_device()
    accelerator = {
        "accelerator": name_accelerator(device),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    return {
        "fl_sim": _find_version(),
        "commit": _find_source_commit(),
        "project_commit": _describe_commit(project or _find_working_folder()),
        "engine": engine,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "flwr": version("flwr"),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "processor": read_processor_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "switches": read_switches(),
        "device": device.type,
        **(accelerator if device.type != "cpu" else {}),
        "precision": current_precision(),
        **({"portable": True} if is_portable() else {}),
    }


def read_device(folder: Path) -> str:
    """Return the kind of device that a run's folder was made on, such as `cpu` or `cuda`.

    It is `cpu and cuda` if the run was continued on another kind, `cpu` for a run of an earlier
    version, and empty if the folder does not say.
    """
    try:
        return str(read_json(folder / "environment.json").get("device", "cpu"))
    except (DamagedFileError, OSError):
        return ""


def read_portable(folder: Path) -> bool | None:
    """Return whether a run's folder was made in the portable mode, or None if it does not say."""
    try:
        return bool(read_json(folder / "environment.json").get("portable", False))
    except (DamagedFileError, OSError):
        return None


def read_switches() -> dict[str, str]:
    """Return the environment variables that choose a processor's instructions, if set."""
    return {name: os.environ[name] for name in SWITCHES if name in os.environ}


def describe_changes(folder: Path, engine: str) -> str:
    """Return in words the differences between this environment and that of a run."""
    then: Mapping[str, Any] = read_json(folder / "environment.json")
    now = describe_environment(engine)
    pairs = [(name, then.get(name), now.get(name)) for name in COMPARED if name in then]
    before, after = then.get("switches", {}), now["switches"]
    if "switches" in then:
        names = sorted({*before, *after})
        pairs += [(name, before.get(name), after.get(name)) for name in names]
    changes = [f"{name} was {old}, is {new}" for name, old, new in pairs if old != new]
    return "; ".join(changes) or "the environment is as recorded, so the code or the data changed"


def read_processor_name() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _find_version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"


def _find_source_commit() -> str | None:
    """Return the commit of fl_sim's sources, or None if the repository around them is not its own.

    A package that is installed in another project lies in that project's repository.
    """
    package = Path(__file__).resolve().parents[1]
    top = _run_git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != package.parent:
        return None
    file = package.parent / "pyproject.toml"
    name = f'name = "{DISTRIBUTION}"'
    is_own = file.is_file() and name in file.read_text(errors="replace")
    tracked = _run_git(package, "ls-files", "--error-unmatch", "__init__.py")
    return _describe_commit(package) if is_own and tracked is not None else None


def _describe_commit(folder: Path | None) -> str | None:
    return None if folder is None else _run_git(folder, "describe", "--always", "--dirty")


def _find_working_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # the folder was deleted
        return None


@lru_cache(maxsize=100)
def _run_git(folder: Path, *command: str) -> str | None:
    """Return the output of a git command in a folder, or None if it fails or is empty."""
    try:
        process = subprocess.run(
            ["git", "-C", str(folder), *command],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        )
    except OSError:
        return None
    return process.stdout.strip() or None if process.returncode == 0 else None
