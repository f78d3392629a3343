"""Comparison of models: accuracy, rounds and traffic to a common target."""

from collections.abc import Sequence

from fl_sim.report.components import Cell, Section, build_table
from fl_sim.report.formats import (
    COUNT,
    MEGABYTES,
    PERCENT,
    SECONDS,
    UNDEFINED,
    drop_undefined,
    format_number,
    format_over_seeds,
    mean,
)
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.setting_tables import build_metric_cell

TARGET_SHARE = 0.9  # of the best final accuracy: the target
COLUMNS = (
    "final accuracy, %",
    "after round 1, %",
    "target, %",
    "rounds to target",
    "MB up to target",
    "MB up per round",
    "spread over clients, points",
    "values trained or sent",
    "CPU seconds per round",
)


def build_model_comparison(grid: Grid) -> Section | None:
    """Return a comparison of the models that share all other settings, if models are varied."""
    model_axes = [axis for axis in grid.axes if axis == "model" or axis.startswith("model.")]
    if not model_axes or not grid.finished:
        return None
    groups: dict[tuple[str, ...], list[Setting]] = {}
    for setting in grid.finished:
        key = tuple(word for axis, word in setting.values.items() if axis not in model_axes)
        groups.setdefault(key, []).append(setting)
    heads = [h for a, h in zip(grid.axes, grid.heads, strict=True) if a not in model_axes]
    heads += [h for a, h in zip(grid.axes, grid.heads, strict=True) if a in model_axes]
    rows = []
    for key, settings in groups.items():
        best = drop_undefined([mean(setting.summary_values("accuracy")) for setting in settings])
        goal = TARGET_SHARE * max(best, default=float("nan"))
        for setting in settings:
            model_words = [word for axis, word in setting.values.items() if axis in model_axes]
            rows.append([*map(Cell, [*key, *model_words]), *_build_cells(setting, goal)])
    comparison = build_table("Models that share all other settings", heads, COLUMNS, rows)
    return Section("starts", _build_title(grid.finished), _describe_comparison(grid), (comparison,))


def count_rounds_to(setting: Setting, goal: float) -> list[float]:
    """Return the first round with at least this accuracy per seed, NaN if there is none."""
    rows = setting.metric_rows("accuracy")
    return [
        float(rows_of_seed.loc[rows_of_seed["value"] >= goal, "round"].min())
        for _, rows_of_seed in rows.groupby("seed")
    ]


def sum_bytes_to(setting: Setting, rounds: Sequence[float]) -> list[float]:
    """Return the bytes sent up to and including these rounds, per seed."""
    rows = setting.metric_rows("bytes_up")
    return [
        float(rows_of_seed.loc[rows_of_seed["round"] <= last, "value"].sum())
        if last == last
        else float("nan")
        for last, (_, rows_of_seed) in zip(rounds, rows.groupby("seed"), strict=True)
    ]


def _build_cells(setting: Setting, goal: float) -> list[Cell]:
    rounds = count_rounds_to(setting, goal)
    reached, sent = bool(drop_undefined(rounds)), UNDEFINED
    if reached:
        sent = format_number(mean(sum_bytes_to(setting, rounds)), MEGABYTES)
    upload = mean(list(setting.metric_rows("bytes_up")["value"]))
    seconds = setting.metric_rows("cpu_seconds").groupby("seed")["value"].mean()
    first = setting.metric_rows("accuracy").query("round == 1")["value"]
    return [
        build_metric_cell(setting, "accuracy", PERCENT),
        Cell(format_over_seeds(list(first), PERCENT)),
        Cell(format_number(goal, PERCENT)),
        Cell(format_over_seeds(rounds, SECONDS) if reached else "not reached"),
        Cell(sent),
        Cell(format_number(upload, MEGABYTES)),
        Cell(format_over_seeds(setting.summary_values("fairness.spread"), PERCENT)),
        Cell(format_number(mean(setting.summary_values("num_parameters")), COUNT)),
        Cell(format_over_seeds(list(seconds), SECONDS._replace(decimals=3))),
    ]


def _list_models(settings: Sequence[Setting]) -> list[dict[str, object]]:
    return [setting.experiment["model"] for setting in settings if setting.experiment]


def _build_title(settings: Sequence[Setting]) -> str:
    inits = {str(model["init"]) for model in _list_models(settings)}
    both = {"pretrained", "random"} <= inits
    return "Foundation start against random start" if both else "Comparison of models"


def _describe_comparison(grid: Grid) -> tuple[str, ...]:
    """Return the definition of the target, and the differences of the models beside their start."""
    target = (
        f"The target is {100 * TARGET_SHARE:g} % of the best final accuracy among the models that "
        "share all other settings. Rounds to target: the first round at or above it, averaged over "
        "the seeds that reach it. MB up: sum over all clients. "
        f"{grid.time_note}"
    )
    models = _list_models(grid.finished)
    fields = [f for f in models[0] if len({str(m.get(f)) for m in models}) > 1] if models else []
    others = [field for field in fields if field != "init"]
    if "init" not in fields or not others:
        return (target,)
    caution = (
        f"The models differ in {' and '.join(others)} as well as in their start, so differences "
        "are not due to pre-training alone."
    )
    return target, caution
