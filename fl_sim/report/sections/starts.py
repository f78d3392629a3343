"""Models side by side: what a foundation start buys and costs."""

from collections.abc import Sequence

from fl_sim.report.formats import (
    COUNT,
    MEGABYTES,
    PERCENT,
    SECONDS,
    UNDEFINED,
    defined,
    mean,
    number,
    over_seeds,
)
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.parts import Cell, Section, table

SHARE = 0.9  # of the best final accuracy, the target that all models race to
COLUMNS = (
    "final accuracy, %",
    "after round 1, %",
    "target, %",
    "rounds to target",
    "MB up to target",
    "MB up a round",
    "spread over clients, points",
    "trained parameters",
    "CPU seconds a round",
)


def starts(grid: Grid) -> Section | None:
    """Return models side by side, where the model is an axis: those that share all else."""
    ours = [axis for axis in grid.axes if axis == "model" or axis.startswith("model.")]
    if not ours or not grid.finished:
        return None
    groups: dict[tuple[str, ...], list[Setting]] = {}
    for setting in grid.finished:
        key = tuple(word for axis, word in setting.values.items() if axis not in ours)
        groups.setdefault(key, []).append(setting)
    heads = [h for a, h in zip(grid.axes, grid.heads, strict=True) if a not in ours]
    heads += [h for a, h in zip(grid.axes, grid.heads, strict=True) if a in ours]
    rows = []
    for key, settings in groups.items():
        best = defined([mean(setting.column("accuracy")) for setting in settings])
        goal = SHARE * max(best, default=float("nan"))
        for setting in settings:
            own = [word for axis, word in setting.values.items() if axis in ours]
            rows.append([*map(Cell, [*key, *own]), *_cells(setting, goal)])
    made = table("Models that share all other settings", heads, COLUMNS, rows)
    return Section("starts", _title(grid.finished), _about(grid), (made,))


def rounds_to(setting: Setting, goal: float) -> list[float]:
    """Return the first round with at least this accuracy, by seed; NaN where there is none."""
    rows = setting.metric("accuracy")
    return [float(own.loc[own["value"] >= goal, "round"].min()) for _, own in rows.groupby("seed")]


def megabytes_to(setting: Setting, rounds: Sequence[float]) -> list[float]:
    """Return the bytes sent up to and including these rounds, by seed."""
    rows = setting.metric("bytes_up")
    return [
        float(own.loc[own["round"] <= last, "value"].sum()) if last == last else float("nan")
        for last, (_, own) in zip(rounds, rows.groupby("seed"), strict=True)
    ]


def _cells(setting: Setting, goal: float) -> list[Cell]:
    rounds = rounds_to(setting, goal)
    reached = bool(defined(rounds))
    upload = mean(list(setting.metric("bytes_up")["value"]))
    seconds = setting.metric("cpu_seconds").groupby("seed")["value"].mean()
    first = setting.metric("accuracy").query("round == 1")["value"]
    return [
        Cell(over_seeds(setting.column("accuracy"), PERCENT)),
        Cell(over_seeds(list(first), PERCENT)),
        Cell(number(goal, PERCENT)),
        Cell(over_seeds(rounds, SECONDS) if reached else "not reached"),
        Cell(number(mean(megabytes_to(setting, rounds)), MEGABYTES) if reached else UNDEFINED),
        Cell(number(upload, MEGABYTES)),
        Cell(over_seeds(setting.column("fairness.spread"), PERCENT)),
        Cell(number(mean(setting.column("num_parameters")), COUNT)),
        Cell(over_seeds(list(seconds), SECONDS._replace(decimals=2))),
    ]


def _models(settings: Sequence[Setting]) -> list[dict[str, object]]:
    return [setting.experiment["model"] for setting in settings if setting.experiment]


def _title(settings: Sequence[Setting]) -> str:
    found = {str(model["init"]) for model in _models(settings)}
    both = {"pretrained", "random"} <= found
    return "Foundation start against random start" if both else "Models side by side"


def _about(grid: Grid) -> tuple[str, ...]:
    """Return how the race is judged, and what the models differ in beside their start."""
    race = (
        f"The target is {100 * SHARE:g} % of the best final accuracy among the models that share "
        "all other settings, so that they race to the same number. Rounds to target: the first "
        "round at or above it, averaged over the seeds that get there. MB up: all clients. "
        f"{grid.about_time}"
    )
    models = _models(grid.finished)
    fields = [f for f in models[0] if len({str(m.get(f)) for m in models}) > 1] if models else []
    beside = [field for field in fields if field != "init"]
    if "init" not in fields or not beside:
        return (race,)
    caution = (
        f"The models differ in {', '.join(beside)} as well as in their start: a difference here "
        "is that of the whole package, not of pre-training alone."
    )
    return race, caution
