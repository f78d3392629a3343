"""The portable mode: the same bits on every x86-64 processor, at the price of speed.

Libraries choose the instructions of a sum by the processor, and so its last bits. With
`FL_SIM_PORTABLE=1` in the environment, they use those that all processors have. Most libraries read
their switches when they are loaded, so importing `fl_sim` sets them, and processes that it starts
inherit them.

Sources: Intel's "Conditional Numerical Reproducibility", oneDNN's "CPU dispatcher control",
NumPy's "CPU/SIMD optimizations", OpenBLAS's "Runtime variables".
"""

import os
import platform
import sys
from pathlib import Path

from fl_sim.core.errors import RequestError

VARIABLE = "FL_SIM_PORTABLE"
# Names of NumPy's sets of instructions above x86-64-v2, before version 2.4 and since.
NUMPY_FEATURES = (
    *("AVX", "F16C", "FMA3", "AVX2", "AVX512F", "AVX512CD", "AVX512_SKX", "AVX512_CLX"),
    *("AVX512_CNL", "AVX512_ICL", "AVX512_SPR", "X86_V3", "X86_V4"),
)
SWITCHES = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "MKL_NUM_THREADS": "1",
    "NPY_DISABLE_CPU_FEATURES": " ".join(NUMPY_FEATURES),
    "OMP_NUM_THREADS": "1",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
    "OPENBLAS_NUM_THREADS": "1",
}
READERS = ("numpy", "torch")  # modules that read the switches when they are loaded
# With these, glibc chooses exp, log and pow of the same code on every processor.
NEEDED = frozenset({"avx2", "fma"})


def is_portable() -> bool:
    """Return whether this process computes the same bits as on other x86-64 processors."""
    return os.environ.get(VARIABLE) == "1"


def choose_portable_instructions() -> None:
    """Set the switches of all libraries, in this process and those that it starts.

    Raises:
        RequestError: If a library was loaded with other switches before.
    """
    loaded = [name for name in READERS if name in sys.modules]
    if loaded and any(os.environ.get(name) != value for name, value in SWITCHES.items()):
        raise RequestError(
            f"{VARIABLE}: {' and '.join(loaded)} was loaded before: start Python with {VARIABLE}=1 "
            "in the environment, or import fl_sim first"
        )
    os.environ.update(SWITCHES, **{VARIABLE: "1"})


def refuse_other_processor(info: Path = Path("/proc/cpuinfo")) -> None:
    """Raise a `RequestError` for a processor that cannot give the same bits.

    Args:
        info: Linux's description of the processor; without one, the kind alone is checked.
    """
    kind = platform.machine()
    if kind.lower() not in ("x86_64", "amd64"):
        raise RequestError(f"portable: an x86-64 processor; got {kind}")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    missing = sorted(NEEDED - {*flags}) if flags else []
    if missing:
        raise RequestError(f"portable: a processor with {' and '.join(missing)}, as since 2015")
