"""Forecasts of runs before they start: the noise to make, the rounds to run, and their time.

Rates are measured on this machine and the run's device, by a second of each noise and by a round of
each kind of run on a few images. On a CPU they are in CPU time, so that other work on the machine
does not change them. Nothing is written, and the runs' own generators are not used.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter, process_time
from typing import NamedTuple

import torch

from fl_sim.config.sweeps import Cell, GridCells
from fl_sim.contracts import Dataset, Protection
from fl_sim.core import process
from fl_sim.core.atomic_io import DamagedFileError
from fl_sim.core.cache import storing_nothing
from fl_sim.core.device import call_on_device, current_device, list_accelerators
from fl_sim.core.errors import RequestError
from fl_sim.core.forecast import Clock, describe_seconds
from fl_sim.core.pass_counter import PassCount, count_passes
from fl_sim.core.serialization import describe, label
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import (
    hash_files,
    load_experiment_dataset,
    prepare_federation,
)
from fl_sim.federation.pool import NoisePart, assign_records, list_noise_to_make
from fl_sim.rounds.loop import run_round
from fl_sim.runs.batching import choose_batching
from fl_sim.runs.profiler import PhaseTimer
from fl_sim.runs.run_options import RunOptions
from fl_sim.runs.runner import mark_variants, plan_jobs
from fl_sim.runs.single_run import find_folder, make_backend, make_initial_state, read_finished

NOISE_SECONDS = 1.0  # for which each noise is made to measure its rate
NOISE_IMAGES = 512  # on at most so many images
IMAGES_PER_CLIENT, FEWEST, MOST = 64, 256, 3200  # of the round that is timed
MOST_KINDS = 6  # kinds of runs that are timed; the others are taken to last as long on average


class NoiseForecast(NamedTuple):
    """Noise of one protection that is still to be made.

    Attributes:
        name: The protection in words.
        parts: Number of times that it is made, each for images of its own.
        images: Number of these images.
        passes: Largest number of forward and backward passes; 0 if its cost is no network's.
        seconds: Time that they take.
    """

    name: str
    parts: int
    images: int
    passes: int
    seconds: float


@dataclass(frozen=True)
class Forecast:
    """The work of a grid that is left, and the time that it takes on one device.

    Attributes:
        device: Device that it is measured on.
        num_cells: Number of cells.
        num_controls: Number of control runs.
        finished: Number of runs that have finished before, of both.
        noise: Noise to make.
        rounds: Number of rounds to run.
        run_seconds: Time of the rounds one after another, and of features of frozen networks; NaN
            if it could not be measured.
        kinds: Number of kinds of runs, which differ in more than seed and protection.
        measured: Number of these whose rounds were timed.
        workers: Number of runs side by side.
    """

    device: torch.device
    num_cells: int
    num_controls: int
    finished: int
    noise: tuple[NoiseForecast, ...]
    rounds: int
    run_seconds: float
    kinds: int
    measured: int
    workers: int

    @property
    def seconds(self) -> float:
        """Time of everything, with runs side by side."""
        return (sum(noise.seconds for noise in self.noise) + self.run_seconds) / self.workers

    def describe(self) -> list[str]:
        """Return the forecast as lines of text."""
        left = self.num_cells + self.num_controls - self.finished
        lines = [
            f"runs: {self.num_cells} cells and {self.num_controls} controls, "
            f"{self.finished} finished, {left} to do"
        ]
        for noise in self.noise:
            times = "once" if noise.parts == 1 else f"{noise.parts} times"
            cost = "no passes through a network"
            if noise.passes:
                cost = f"at most {noise.passes:,} passes, {describe_seconds(noise.seconds)}"
            lines.append(f"noise: {noise.name}, {times}, {noise.images:,} images, {cost}")
        if not left:
            return lines
        some = f" (timed for {self.measured} of {self.kinds} kinds of runs)"
        part = some if self.measured < self.kinds else ""
        if math.isnan(self.run_seconds):
            return [*lines, f"rounds: {self.rounds}, not timed: no smaller run can be made"]
        lines.append(f"rounds: {self.rounds:,}, {describe_seconds(self.run_seconds)}{part}")
        side = f", {self.workers} runs side by side" if self.workers > 1 else ""
        return [*lines, f"in all about {describe_seconds(self.seconds)} on {self.device}{side}"]


def forecast(grid: GridCells, options: RunOptions) -> Forecast:
    """Return the work of checked cells that is left, and its time on the device of the options."""
    cells = mark_variants(grid.cells, options)
    jobs = plan_jobs(cells, options)
    left = [job for job in jobs if not _is_finished(job, options)]
    process.configure_process()
    with options.use_device(), storing_nothing():
        noise = forecast_noise([job.experiment for job in left])
        by_kind = _group_by_kind(left)
        timed = [time_run(kind[0].experiment, options) for kind in by_kind[:MOST_KINDS]]
        device = current_device()
    known = [time for time in timed if time is not None]
    seconds = _sum_seconds(by_kind, timed) if known else math.nan
    devices = options.find_devices()
    most = max(options.workers, len(devices)) if device.type == "cpu" else len(devices)
    return Forecast(
        device=device,
        num_cells=len(cells),
        num_controls=len(jobs) - len(cells),
        finished=len(jobs) - len(left),
        noise=tuple(noise),
        rounds=sum(job.experiment.rounds for job in left),
        run_seconds=seconds if left else 0.0,
        kinds=len(by_kind),
        measured=len(known),
        workers=max(1, min(most, len(left))),
    )


def describe_other_device(grid: GridCells, options: RunOptions) -> str:
    """Return the forecast for the other kind of device, the CPU or an accelerator, in a line."""
    on_cpu = options.find_device().type == "cpu"
    found = list_accelerators()
    if on_cpu and not found:
        return "on a GPU: not measured, since this machine has none"
    device = str(found[0].device) if on_cpu else "cpu"
    try:
        other = forecast(grid, replace(options, device=device))
    except RequestError as error:
        return f"on {device}: {error}"
    return f"on {device}: about {describe_seconds(other.seconds)}"


def _is_finished(job: Cell, options: RunOptions) -> bool:
    if not options.resume:
        return False
    try:
        folder = find_folder(options, job)
        return read_finished(folder, job.key, hash_files(job.experiment)) is not None
    except DamagedFileError:
        return False


class _EnoughError(Exception):
    """The rate of passes is known."""


def measure_pass_rate(
    protection: Protection,
    dataset: Dataset,
    part_rows: torch.Tensor,
    seconds: float = NOISE_SECONDS,
    clock: Clock | None = None,
) -> float:
    """Return the passes per second of making noise, after its first step; NaN for no network.

    Args:
        protection: The protection.
        dataset: Images that the noise is for.
        part_rows: Rows of these images, of which the first are used.
        seconds: Time after which the noise is left unfinished.
        clock: Function that returns the time in seconds; None for that of the device.
    """
    clock = clock or _choose_clock()
    marks: list[tuple[float, int]] = []  # times, and passes that were made by then
    before = 0

    def listen(count: PassCount) -> None:  # before the passes that it counts
        nonlocal before
        if len(marks) < 2 or clock() - marks[-1][0] >= seconds:
            _synchronise()
            marks.append((clock(), before))
            if len(marks) > 2:
                raise _EnoughError
        before = count.passes

    rows = part_rows[:NOISE_IMAGES]
    images, labels = dataset.train_images[rows], dataset.train_labels[rows]
    try:
        with count_passes(listen) as counted:
            call_on_device(protection.protect, images, labels, rows, 0)
        _synchronise()
        marks.append((clock(), counted.passes))
    except _EnoughError:
        pass
    if len(marks) < 2:
        return math.nan
    (began, first), (ended, last) = marks[-2], marks[-1]
    return (last - first) / (ended - began) if ended > began else math.nan


def _choose_clock() -> Clock:
    """Return the CPU time of this process on a CPU, and the time of day on an accelerator."""
    return process_time if current_device().type == "cpu" else perf_counter


def _synchronise() -> None:
    """Wait for the kernels of an accelerator, which run on while Python continues."""
    device = current_device()
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def forecast_noise(
    experiments: list[Experiment],
    measure: Callable[[Protection, Dataset, torch.Tensor], float] = measure_pass_rate,
) -> list[NoiseForecast]:
    """Return the noise that experiments need and the cache lacks, by protection."""
    parts: dict[str, tuple[NoisePart, Dataset]] = {}
    for experiment in experiments:
        parts |= list_noise_to_make(experiment, load_experiment_dataset(experiment))
    by_protection: dict[str, list[tuple[NoisePart, Dataset]]] = {}
    for part, dataset in parts.values():
        by_protection.setdefault(json.dumps(describe(part.protection)), []).append((part, dataset))
    found = []
    for own in by_protection.values():
        passes = sum(part.predict_passes(dataset) for part, dataset in own)
        part, dataset = own[0]
        rate = measure(part.protection, dataset, part.rows) if passes else math.nan
        seconds = 0.0 if math.isnan(rate) else passes / rate
        images = sum(len(part.rows) for part, _ in own)
        found.append(NoiseForecast(label(part.protection), len(own), images, passes, seconds))
    return found


def _group_by_kind(jobs: list[Cell]) -> list[list[Cell]]:
    """Return jobs in groups that differ in seed and protection alone."""

    def find_kind(job: Cell) -> str:
        return replace(job.experiment.all_clean(), seed=0).to_json()

    kinds: dict[str, list[Cell]] = {}
    for job in jobs:
        kinds.setdefault(find_kind(job), []).append(job)
    return list(kinds.values())


class RunTime(NamedTuple):
    """Seconds of a run: its preparation, which runs of a kind share, and each of its rounds."""

    prepare: float
    round: float


def _sum_seconds(by_kind: list[list[Cell]], timed: list[RunTime | None]) -> float:
    """Return the seconds of all rounds; kinds that were not timed last as long on average."""
    known = [time for time in timed if time is not None]
    mean = RunTime(*(sum(values) / len(known) for values in zip(*known, strict=True)))
    times = [*timed, *[None] * (len(by_kind) - len(timed))]
    total = 0.0
    for jobs, time in zip(by_kind, times, strict=True):
        prepare, each = time or mean
        total += prepare + each * sum(job.experiment.rounds for job in jobs)
    return total


def time_run(experiment: Experiment, options: RunOptions) -> RunTime | None:
    """Return the times of a run without protection, scaled up from a round on a few images.

    The scale is the number of images that a client passes through the network, and, for the
    evaluation, that of all images. None if there is no such run on a few images.
    """
    dataset = load_experiment_dataset(experiment)
    try:
        small = _shrink(experiment, dataset)
        few = load_experiment_dataset(small)
        clock = _choose_clock()
        began = clock()
        federation = prepare_federation(small)
        prepare = clock() - began if len(federation.frozen) else 0.0
        here = replace(options, engine="local", ray_address=None)
        backend = make_backend(federation, here)
        batched = choose_batching(here.batch_clients, federation)
        timer = PhaseTimer()
        for _ in range(2):  # the first one is slower
            timer.clear()
            state = make_initial_state(federation, batched)
            run_round(federation, state, backend, timer, 1)
            _synchronise()
            timer.switch_to("rest")
    except RequestError:
        return None
    trained = count_trained(experiment, dataset) / count_trained(small, few)
    read = _count_images(dataset) / _count_images(few)
    scored = 1 / experiment.evaluation.every
    scale = {"training": trained, "evaluation": read * scored, "metrics": read * scored}
    scale["training"] *= 1 if experiment.evaluation.alone is None else 2
    spent = timer.cpu if current_device().type == "cpu" else timer.wall
    each = sum(seconds * scale.get(part, 1.0) for part, seconds in spent.items())
    return RunTime(prepare * read, each)


def _shrink(experiment: Experiment, dataset: Dataset) -> Experiment:
    """Return a run without protection on a few images, one epoch a round."""
    data = experiment.data
    count = max(data.num_clients * 4, min(MOST, max(FEWEST, IMAGES_PER_CLIENT * data.num_clients)))
    few = replace(
        data,
        num_samples=min(count, len(dataset.train_images)),
        num_test=min(count + experiment.root_samples, len(dataset.test_images)),
    )
    evaluation = replace(experiment.evaluation, every=1, alone=None)
    small = replace(experiment.all_clean(), data=few, evaluation=evaluation)
    epochs = [
        (f"{path}.local_epochs", 1)
        for path, client in small.client.walk("client")
        if getattr(client, "local_epochs", 1) > 1
    ]
    return small.with_values(epochs)


def count_trained(experiment: Experiment, dataset: Dataset) -> float:
    """Return the number of images that the clients of a round pass through the network."""
    clients, members, _ = assign_records(experiment, dataset)
    client = experiment.client
    images: list[int] = []
    for size in clients[members].bincount(minlength=1).tolist():
        if size:
            batch = client.images_per_step() or size
            images.append(client.num_steps(size) * min(size, batch))
    return experiment.clients_per_round * sum(images) / len(images)


def _count_images(dataset: Dataset) -> int:
    return len(dataset.train_images) + len(dataset.test_images)
