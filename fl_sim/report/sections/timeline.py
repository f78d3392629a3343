"""Who protected, attacked and dropped out, round by round, over the accuracy curve."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fl_sim.core.errors import RequestError
from fl_sim.core.plugins import read_docstring
from fl_sim.report.components import Drawing, Section, build_figure_section
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.style import COLOURS, GREY, INK, PALE, STYLE, create_figure, export_figure

MAX_DRAWN = 4  # settings
MAX_CLIENTS = 40
MAX_DEPARTURES = 6  # departures that are named
ORANGE, SKY, FAINT = COLOURS[1], COLOURS[5], "#a8a8a8"
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Timeline:
    """What each client did in each round of one run: client by row, round by column."""

    delivered: Flags
    protected: Flags
    attacked: Flags
    lost: Flags
    away: Flags

    @property
    def is_eventful(self) -> bool:
        """Whether anything but who is asked differs from one round to the next."""
        parts = (self.protected, self.attacked)
        changes = any(bool((part != part[:, :1]).any()) for part in parts)
        return changes or bool(self.lost.any()) or bool(self.away.any())

    def select_clients(self) -> list[int]:
        """Return the clients to draw: all, or those of whom there is most to say."""
        clients = range(len(self.delivered))
        special = self.attacked | self.lost | self.away
        ordered = sorted(
            clients, key=lambda c: (not special[c].any(), not self.protected[c].any(), c)
        )
        return sorted(ordered[:MAX_CLIENTS])


def build_timeline(grid: Grid) -> Section | None:
    """Return the section, or None if there is nothing to draw."""
    return build_figure_section("timeline", "Who did what when", *draw_timelines(grid))


def draw_timelines(grid: Grid) -> list[Drawing]:
    """Draw the first settings in which anything happens over the rounds."""
    may_be = (setting for setting in grid.finished if _can_be_eventful(grid, setting))
    found = ((setting, reconstruct_timeline(grid, setting)) for setting in may_be)
    eventful = ((setting, line) for setting, line in found if line and line.is_eventful)
    return [
        _draw_timeline(setting, line, f"timeline_{i}" if i > 1 else "timeline")
        for i, (setting, line) in enumerate(islice(eventful, MAX_DRAWN), 1)
    ]


def _can_be_eventful(grid: Grid, setting: Setting) -> bool:
    """Say whether anything in the description or the failures can differ between rounds."""
    about = setting.experiment
    if not about:
        return False
    late = int(about["layout"].get("first_round", 1)) > 1
    stays = bool(about["participation"].get("stays"))
    return late or stays or bool(_list_adversaries(about)) or not grid.results.failures.empty


def reconstruct_timeline(grid: Grid, setting: Setting) -> Timeline | None:
    """Return what each client did in the first seed's run.

    None where the experiment can no longer be read: it names a part that is gone.
    """
    about = setting.experiment
    if not about or not _can_be_loaded(about):
        return None
    shape = (_count_clients(about), int(about["rounds"]))
    rows = setting.rows[setting.rows["seed"] == setting.first_seed]
    by_client = rows[rows["client"] >= 0]
    attacks = _find_attacks(about, by_client, shape)
    if attacks is None:
        return None
    shares = by_client[(by_client["metric"] == "protected_share") & (by_client["value"] > 0)]
    losses = grid.results.failures
    run_id = str(setting.finished["run_id"].iloc[0])
    lost = losses[(losses["run_id"] == run_id) & (losses["seed"] == setting.first_seed)]
    asked = _mark_rows(shape, by_client[by_client["metric"] == "train_loss"])
    numbers = np.arange(1, shape[1] + 1)
    owners = np.isin(np.arange(shape[0]), shares["client"])
    return Timeline(
        delivered=asked,
        protected=np.outer(owners, numbers >= about["layout"].get("first_round", 1)),
        attacked=attacks & asked,
        lost=_mark_rows(shape, lost[lost["client"] >= 0]),
        away=_find_absences(about, shape),
    )


def _can_be_loaded(about: Any) -> bool:
    """Say whether all classes that a description names are there, Flower's taken on trust."""
    if isinstance(about, list):
        return all(map(_can_be_loaded, about))
    if not isinstance(about, Mapping):
        return True
    path = str(about.get("class", ""))
    there = not path or path.startswith("flwr.") or bool(read_docstring(path))
    return there and all(map(_can_be_loaded, about.values()))


def _count_clients(about: Mapping[str, Any]) -> int:
    """Return how many clients a described experiment has, attackers beside them included."""
    beside = [own for own in _list_adversaries(about) if own.get("beside")]
    count = sum(1 if own["num_clients"] is None else own["num_clients"] for own in beside)
    return int(about["data"]["num_clients"]) + count


def _list_adversaries(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the described attacks of an experiment."""
    found = about.get("adversary") or []
    return found if isinstance(found, list) else [found]


def _find_absences(about: Mapping[str, Any], shape: tuple[int, int]) -> Flags:
    """Return in which rounds clients are not there at all."""
    away = np.zeros(shape, dtype=np.bool_)
    stays = about["participation"].get("stays", [])
    for client in {stay["client"] for stay in stays}:
        away[client] = True
    for stay in stays:
        away[stay["client"], stay["first_round"] - 1 : stay["last_round"]] = False
    return away


def _find_attacks(
    about: Mapping[str, Any], by_client: pd.DataFrame, shape: tuple[int, int]
) -> Flags | None:
    """Return in which rounds clients misbehave; None where nobody can tell any more.

    The rows say so wherever every client was scored after every round. Elsewhere the experiment
    is carried out once more, as far as its draws go, for which PyTorch is imported.
    """
    if not _list_adversaries(about):
        return np.zeros(shape, dtype=np.bool_)
    scored = by_client[by_client["metric"] == "client_accuracy"]
    if bool(_mark_rows(shape, scored).all()):
        return _mark_rows(shape, scored[scored["group"] == "attacker"])
    return _replay_attacks(json.dumps(about), shape)


def _replay_attacks(text: str, shape: tuple[int, int]) -> Flags | None:
    from fl_sim.experiment import Experiment
    from fl_sim.schedule import Schedule

    try:
        schedule = Schedule(Experiment.from_json(text))
    except RequestError:
        return None
    plan = [schedule.attackers(i) for i in range(1, shape[1] + 1)]
    return np.array([[client in own for own in plan] for client in range(shape[0])])


def find_intervals(flags: Flags) -> list[tuple[int, int]]:
    """Return the first and the last round of each unbroken stretch of true values.

    >>> stretches(np.array([False, True, True, False, True]))
    [(2, 3), (5, 5)]
    """
    edges = np.flatnonzero(np.diff(flags.astype(int), prepend=0, append=0))
    return [(int(a) + 1, int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _mark_rows(shape: tuple[int, int], table: Any) -> Flags:
    """Return where the table has a row of this client and round."""
    flags = np.zeros(shape, dtype=np.bool_)
    flags[table["client"].to_numpy(int), table["round"].to_numpy(int) - 1] = True
    return flags


def _draw_timeline(setting: Setting, line: Timeline, name: str) -> Drawing:
    which = f" of {setting.label}" if setting.label else ""
    about = (
        f"Who did what in seed {setting.first_seed}{which}, over the accuracy after each round. "
        "A square is a client that delivered; white, one that was not asked or lost."
    )
    if len(line.select_clients()) < len(line.delivered):
        about += f" {len(line.select_clients())} of {len(line.delivered)} clients are drawn."
    if len(setting.folders) > 1:
        about += " Grey curves: the other seeds, whose scripts differ where clients are drawn."
    return export_figure(name, _create_figure(setting, line), about, about)


@rc_context(STYLE)
def _create_figure(setting: Setting, line: Timeline) -> Figure:
    shown = line.select_clients()
    height = 0.5 + 0.17 * len(shown)
    figure = create_figure(height + 2.3)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[height, 1.9])
    _draw_squares(above, line, shown)
    _draw_accuracy(below, setting, line)
    figure.legend(handles=_create_legend(line), loc="outside upper left", ncols=6)
    return figure


def _draw_squares(axes: Axes, line: Timeline, shown: list[int]) -> None:
    """Draw a square for each client and round, and marks on it."""
    rounds = line.delivered.shape[1]
    picture = np.ones((len(shown), rounds, 3))
    picture[line.delivered[shown]] = to_rgb(PALE)
    picture[(line.delivered & line.protected)[shown]] = to_rgb(SKY)
    extent = (0.5, rounds + 0.5, len(shown) - 0.5, -0.5)
    axes.imshow(picture, aspect="auto", interpolation="none", extent=extent)
    size = float(np.clip(150 / rounds, 1.5, 6))
    for flags, marker, colour in ((line.attacked, "v", ORANGE), (line.lost, "x", INK)):
        rows, columns = np.nonzero(flags[shown])
        axes.plot(columns + 1, rows, marker, color=colour, markersize=size, markeredgewidth=1.2)
    for row, client in enumerate(shown):
        for first, last in find_intervals(line.away[client]):
            ends = [first - 0.4, last + 0.4]
            axes.plot(ends, [row, row], color=GREY, linewidth=0.8, linestyle=":")
    axes.grid(visible=False)
    axes.set_yticks(range(len(shown)), [str(client) for client in shown])
    axes.set_yticks(np.arange(len(shown) + 1) - 0.5, minor=True)
    axes.grid(which="minor", axis="y", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("client")


def _draw_accuracy(axes: Axes, setting: Setting, line: Timeline) -> None:
    """Draw the curves, and behind them when attacks and protection were on."""
    rows, rounds = setting.metric_rows("accuracy"), line.delivered.shape[1]
    attacked = np.array([bool(column.any()) for column in line.attacked.T])
    for seed in reversed(list(setting.folders)):
        own = rows[rows["seed"] == seed].sort_values("round")
        colour, width = (INK, 1.8) if seed == setting.first_seed else (FAINT, 1.0)
        values = 100 * own["value"].to_numpy(float)
        axes.plot(own["round"].to_numpy(int), values, color=colour, linewidth=width)
    spans = ((_find_protected_rounds(line), SKY, "protected"), (attacked, ORANGE, "attacked"))
    for layer, (flags, colour, words) in enumerate(spans):
        for i, (first, last) in enumerate(find_intervals(flags)):
            ends = first - 0.5, last + 0.5
            order: dict[str, Any] = {"linewidth": 0, "zorder": 0.5 + layer / 10}
            axes.axvspan(*ends, color="white", **order)  # so that colours do not mix
            axes.axvspan(*ends, color=colour, alpha=0.22, **order)
            if i == 0:
                _annotate(axes, ends[0], words)
    for number, clients in _find_departures(line).items():
        axes.axvline(number - 0.5, color=GREY, linestyle=":", linewidth=1)
        _annotate(
            axes, number - 0.5, f"client {' and '.join(map(str, clients))} leaves", height=0.86
        )
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.25 * (high - low))  # room for words
    axes.set_xlim(0.5, rounds + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=20))
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy, %")


def _annotate(axes: Axes, place: float, words: str, height: float = 0.97) -> None:
    """Write a word above the curves."""
    where = axes.get_xaxis_transform()
    axes.text(place + 0.1, height, words, transform=where, va="top", fontsize=8, color=INK)


def _find_departures(line: Timeline) -> dict[int, list[int]]:
    """Return who goes away, by the first round without them; not where it becomes too much."""
    found: dict[int, list[int]] = {}
    for client, away in enumerate(line.away):
        for first, _ in find_intervals(away):
            if first > 1:
                found.setdefault(first, []).append(client)
    return found if len(found) <= MAX_DEPARTURES else {}


def _find_protected_rounds(line: Timeline) -> Flags:
    """Return the rounds with protection, where there are also some without."""
    rounds = np.array([bool(column.any()) for column in line.protected.T])
    return rounds & ~rounds.all()


def _create_legend(line: Timeline) -> list[Any]:
    """Return a handle for everything that occurs."""
    marks: dict[str, Any] = {"markersize": 5, "linestyle": "none"}
    handles = [
        (~line.protected & line.delivered, Patch(color=PALE, label="trained on clean images")),
        (line.protected & line.delivered, Patch(color=SKY, label="protected images")),
        (line.attacked, Line2D([], [], color=ORANGE, marker="v", label="attacked", **marks)),
        (line.lost, Line2D([], [], color=INK, marker="x", label="did not deliver", **marks)),
        (line.away, Line2D([], [], color=GREY, linestyle=":", label="away")),
    ]
    return [handle for flags, handle in handles if flags.any()]
