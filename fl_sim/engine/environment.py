"""What the bits of a run depend on beside the experiment."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch


def environment(engine: str) -> dict[str, Any]:
    """Return versions, commit and machine."""
    return {
        "fl_sim": version("fl-sim"),
        "commit": _commit(),
        "engine": engine,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "flwr": version("flwr"),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "processor": processor(),
    }


def processor() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
