"""The command `python -m benchmarks`: measures, prints the tables and writes the results."""

import importlib.util
import os
import platform
import re
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.cases import ENGINES, Case
from benchmarks.device import DEVICE
from benchmarks.pages import GPU_RESULTS, RESULTS, describe_determinism
from benchmarks.race import race, race_cold
from benchmarks.table import (
    Row,
    make_row,
    make_targets_table,
    make_times_table,
    merge_rows,
    write_rows,
)
from benchmarks.targets import GPU_TARGETS
from benchmarks.workloads import list_all_cases, list_all_gpu_cases
from fl_sim.core.atomic_io import write_json
from fl_sim.core.device import name_accelerator, resolve_devices
from fl_sim.core.errors import RequestError

PFL_FOLDER = Path(sys.prefix) / "pfl"  # installed there by `make bench`
console = Console()


def main(
    only: Annotated[str, typer.Option(help="Workloads, such as W1,W2; all by default.")] = "",
    engines: Annotated[str, typer.Option(help="Engines; all by default.")] = "",
    runs: Annotated[int, typer.Option(min=1, help="Turns that count, of each engine.")] = 5,
    out: Annotated[Path | None, typer.Option(help="File of the results.")] = None,
    device: Annotated[str, typer.Option(help="cpu, or a GPU such as cuda.")] = "cpu",
    full: Annotated[bool, typer.Option(help="Also the cases that take long.")] = False,
) -> None:
    """Measure the cost of a round for the plain loop, fl_sim, Flower and pfl, in turns."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which ends the children
    place = choose_device(device)
    on_gpu, out = place.type != "cpu", out or _find_results(place)
    selected = _parse_names(engines, [*ENGINES, "nondeterministic"], "engines")
    cases = list_all_gpu_cases() if on_gpu else list_all_cases(full)
    known = list(dict.fromkeys(case.workload for case in cases))
    workloads = _parse_names(only, known, "workloads")
    if "pfl" in selected and not _find_pfl():
        console.print(f"pfl left out: not installed ({PFL_FOLDER} is not there; see make bench)")
        selected.remove("pfl")
    rows: list[Row] = []
    for case in cases:
        if case.workload in workloads:
            rows += _measure(case, selected, runs)
            write_rows(out, merge_rows(out, rows))
    machine = out.with_suffix(".machine.json") if on_gpu else out.with_name("machine.json")
    write_json(machine, _describe_machine(place))
    everything = merge_rows(out, rows)
    if on_gpu:
        console.print(make_times_table(everything, "wall_seconds"))
        console.print(make_targets_table(everything, GPU_TARGETS))
        console.print(*describe_determinism(everything), sep="\n")
    else:
        console.print(make_times_table(everything), make_targets_table(everything))
    console.print(f"results: {out}")


def choose_device(name: str) -> torch.device:
    """Return the device, of which the children are told; exit with 2 if it is missing."""
    try:
        device = resolve_devices(name)[0]
    except RequestError as error:
        console.print(f"nothing to measure: {error}", soft_wrap=True, highlight=False)
        raise typer.Exit(2) from None
    os.environ[DEVICE] = str(device)
    return device


def _find_results(device: torch.device) -> Path:
    """Return the file of the results of a kind of device."""
    if device.type == "cpu":
        return RESULTS
    return GPU_RESULTS / f"{re.sub('[^a-z0-9]+', '-', name_accelerator(device).lower())}.json"


def _measure(case: Case, engines: list[str], runs: int) -> list[Row]:
    jobs = {engine: job for engine, job in case.jobs.items() if engine in engines}
    started = time.perf_counter()

    def log(text: str) -> None:
        console.print(f"  {case.workload}, {case.name}: {text}", soft_wrap=True, markup=False)

    case.prepare()
    with console.status(f"{case.workload}, {case.name}: {', '.join(jobs)}"):
        if case.cold:
            outcomes = race_cold(jobs, runs, case.budget, log)
        else:
            outcomes = race(jobs, runs, case.warm_up, case.budget, log)
    log(f"measured in {time.perf_counter() - started:.0f} s")
    return [
        make_row(case.workload, case.name, engine, outcome)
        for engine, outcome in outcomes.items()
        if outcome.samples
    ]


def _parse_names(text: str, known: list[str], what: str) -> list[str]:
    """Return the names in a comma-separated text, or all known names if it is empty."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{what}: expected some of {', '.join(known)}; got {name}")
    return names or known


def _find_pfl() -> bool:
    """Return whether pfl can be imported; children find it in the same place."""
    if PFL_FOLDER.exists():
        os.environ["BENCHMARKS_EXTRA"] = str(PFL_FOLDER)
        return True
    return importlib.util.find_spec("pfl") is not None


def _describe_machine(device: torch.device) -> dict[str, object]:
    """Return the properties of the machine and the versions that the results depend on."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")]
    return {
        **({} if device.type == "cpu" else {"accelerator": name_accelerator(device)}),
        "processor": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "flwr", "ray", "numpy")},
        "load_before": os.getloadavg()[2],
    }


if __name__ == "__main__":
    typer.run(main)
