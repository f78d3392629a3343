"""The command `make fuzz`: tries inputs of every family in turn, and counts the outcomes."""

import argparse
import logging
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tests.fuzz.families import Family
from tests.fuzz.families.experiments import ExperimentFiles, ExperimentJson
from tests.fuzz.families.images import ImageFolders, NpzFiles
from tests.fuzz.families.replies import ClientReplies
from tests.fuzz.families.results import CacheFiles, Checkpoints, Manifests, ResultFiles
from tests.fuzz.judge import Outcome, judge

FAMILIES: tuple[type[Family], ...] = (
    ExperimentFiles, ExperimentJson, NpzFiles, ImageFolders, ResultFiles, Manifests, Checkpoints,
    CacheFiles, ClientReplies,
)  # fmt: skip
MEMORY = 8 << 30  # bytes beyond those at the start; more is a fault
ENDINGS = ("accepted", "refused", "traceback", "silent")


def main() -> int:
    """Try inputs until the time is up; return 1 if there was a fault."""
    options = _parse_options()
    root = Path(tempfile.mkdtemp(prefix="fl_sim_fuzz_"))
    os.environ["FL_SIM_CACHE"] = str(root / "FL_SIM_CACHE")  # distinct from the folders of families
    torch.set_num_threads(1)
    _limit_memory()
    logging.disable()
    warnings.simplefilter("ignore")
    chosen = [cls for cls in FAMILIES if not options.family or options.family in cls.name]
    counts = {cls.name: Counter[str]() for cls in chosen}
    try:
        _try_all([_prepare(cls, root) for cls in chosen], options, counts)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    console = Console()
    console.print(_make_table(counts))
    faults = sum(count["traceback"] + count["silent"] for count in counts.values())
    console.print(f"{sum(map(Counter.total, counts.values()))} inputs, {faults} faults")
    return 1 if faults else 0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="Duration in minutes.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the inputs.")
    parser.add_argument("--family", default="", help="Only families with this in their name.")
    parser.add_argument("--number", type=int, help="Only this input of each family, from 0.")
    return parser.parse_args()


def _limit_memory() -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))


def _prepare(cls: type[Family], root: Path) -> Family:
    folder = root / cls.name.replace(" ", "_")
    folder.mkdir()
    return cls(folder)


def _try_all(
    families: list[Family], options: argparse.Namespace, counts: dict[str, Counter[str]]
) -> None:
    """Try the families in turn, with equal time for each."""
    spent = dict.fromkeys(counts, 0.0)
    end = time.monotonic() + 60 * options.minutes
    while time.monotonic() < end:
        family = min(families, key=lambda count: spent[count.name])
        number = counts[family.name].total() if options.number is None else options.number
        started = time.monotonic()
        outcome = _try_one(family, options.seed, number)
        spent[family.name] += time.monotonic() - started
        counts[family.name][outcome.ending] += 1
        if outcome.detail:
            print(f"\n{family.name}, --seed {options.seed} --number {number}: {outcome.ending}")
            print(outcome.detail, flush=True)
        if options.number is not None and all(count.total() for count in counts.values()):
            return


def _try_one(family: Family, seed: int, number: int) -> Outcome:
    where = family.folder / "input"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir()
    rng = random.Random(f"{seed} {family.name} {number}")
    return judge(lambda: family.attempt(rng))


def _make_table(counts: dict[str, Counter[str]]) -> Table:
    table = Table("family", "inputs", *ENDINGS)
    for name, count in counts.items():
        table.add_row(name, *(str(n) for n in (count.total(), *(count[e] for e in ENDINGS))))
    return table


if __name__ == "__main__":
    sys.exit(main())
