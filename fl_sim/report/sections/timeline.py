"""Timeline of protection, attacks and drop-outs per client and round."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
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
MAX_DEPARTURES = 6  # departures; more are not labelled
ORANGE, SKY, FAINT = COLOURS[1], COLOURS[5], "#a8a8a8"
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Timeline:
    """Events of one run as boolean [clients, rounds] arrays.

    `rules` has the server's rule by the first round of each after the first, and `sentence` the
    scenario in words, if it has clauses.
    """

    delivered: Flags
    protected: Flags
    attacked: Flags
    lost: Flags
    away: Flags
    rules: Mapping[int, str] = field(default_factory=dict)
    sentence: str = ""

    @property
    def is_eventful(self) -> bool:
        """True if rounds differ in anything but the selection of clients."""
        parts = (self.protected, self.attacked)
        changes = any(bool((part != part[:, :1]).any()) for part in parts)
        return changes or bool(self.lost.any() or self.away.any() or self.rules)

    def select_clients(self) -> list[int]:
        """Return the clients to draw: all, or those with the most events."""
        clients = range(len(self.delivered))
        special = self.attacked | self.lost | self.away
        eventful = sorted(
            clients, key=lambda c: (not special[c].any(), not self.protected[c].any())
        )
        return sorted(eventful[:MAX_CLIENTS])


def build_timeline(grid: Grid) -> Section | None:
    """Return the section, or None if there is nothing to draw."""
    return build_figure_section("timeline", "Timeline", *draw_timelines(grid))


def draw_timelines(grid: Grid) -> list[Drawing]:
    """Draw the first settings in which rounds differ."""
    candidates = (setting for setting in grid.finished if _can_be_eventful(grid, setting))
    reconstructed = ((setting, reconstruct_timeline(grid, setting)) for setting in candidates)
    eventful = ((setting, line) for setting, line in reconstructed if line and line.is_eventful)
    return [
        _draw_timeline(setting, line, f"timeline_{i}" if i > 1 else "timeline")
        for i, (setting, line) in enumerate(islice(eventful, MAX_DRAWN), 1)
    ]


def _can_be_eventful(grid: Grid, setting: Setting) -> bool:
    """Return whether rounds can differ, judging by the experiment and the failures."""
    experiment = setting.experiment
    if not experiment:
        return False
    late = _is_scripted(experiment) or int(experiment["layout"].get("first_round", 1)) > 1
    stays = bool(experiment["participation"].get("stays"))
    attacked = any(_has_rounds(adversary) for adversary in _list_adversaries(experiment))
    sampled = experiment["participation"].get("clients_per_round") is not None
    attacked |= sampled and bool(_list_adversaries(experiment))
    return late or stays or attacked or not grid.results.failures.empty


def _has_rounds(adversary: Mapping[str, Any]) -> bool:
    """Return whether the attackers of an adversary can differ between rounds."""
    constant = {"drawn": "once", "first_round": 1, "last_round": None, "every": 1}
    return any(adversary.get(name, usual) != usual for name, usual in constant.items())


def _is_scripted(experiment: Mapping[str, Any]) -> bool:
    """Return whether clauses name clients or rounds, or the rule changes with the round."""
    clauses = isinstance(experiment["layout"], list)
    changes = "stages" in experiment["strategy"]
    return clauses or changes or bool(experiment["participation"].get("absences"))


def reconstruct_timeline(grid: Grid, setting: Setting) -> Timeline | None:
    """Return the timeline of the first seed's run.

    It is None if the experiment can no longer be read, since a class that it names is gone.
    """
    experiment = setting.experiment
    if not experiment or not _can_be_loaded(experiment):
        return None
    shape = (_count_clients(experiment), int(experiment["rounds"]))
    rows = setting.rows[setting.rows["seed"] == setting.first_seed]
    by_client = rows[rows["client"] >= 0]
    attacks = _find_attacks(experiment, by_client, shape)
    if attacks is None:
        return None
    shares = by_client[(by_client["metric"] == "protected_share") & (by_client["value"] > 0)]
    losses = grid.results.failures
    run_id = str(setting.finished["run_id"].iloc[0])
    lost = losses[(losses["run_id"] == run_id) & (losses["seed"] == setting.first_seed)]
    selected = _mark_rows(shape, by_client[by_client["metric"] == "train_loss"])
    numbers = np.arange(1, shape[1] + 1)
    owners = np.isin(np.arange(shape[0]), shares["client"])
    lost_flags = _mark_rows(shape, lost[lost["client"] >= 0])
    if _is_scripted(experiment):
        return _replay_script(json.dumps(experiment), selected, lost_flags)
    return Timeline(
        delivered=selected,
        protected=np.outer(owners, numbers >= experiment["layout"].get("first_round", 1)),
        attacked=attacks & selected,
        lost=lost_flags,
        away=_find_absences(experiment, shape),
    )


def _replay_script(text: str, delivered: Flags, lost: Flags) -> Timeline | None:
    """Return the timeline of a scenario with clauses, for which PyTorch is imported."""
    from fl_sim.experiment import Experiment
    from fl_sim.scenario import Scenario, list_rules, make_plan

    try:
        experiment = Experiment.from_json(text)
    except RequestError:
        return None
    plan = make_plan(experiment)
    return Timeline(
        delivered=delivered,
        protected=plan.protected,
        attacked=plan.attacked & delivered,
        lost=lost,
        away=plan.away,
        rules=dict(list_rules(experiment)[1:]),
        sentence=str(Scenario.of(experiment)),
    )


def _can_be_loaded(description: Any) -> bool:
    """Return whether all classes that an experiment names exist; Flower's are not checked."""
    if isinstance(description, list):
        return all(map(_can_be_loaded, description))
    if not isinstance(description, Mapping):
        return True
    path = str(description.get("class", ""))
    exists = not path or path.startswith("flwr.") or bool(read_docstring(path))
    return exists and all(map(_can_be_loaded, description.values()))


def _count_clients(experiment: Mapping[str, Any]) -> int:
    """Return the number of clients of an experiment, including attackers beside them."""
    beside = [adversary for adversary in _list_adversaries(experiment) if adversary.get("beside")]
    counts = [adversary["num_clients"] for adversary in beside]
    return int(experiment["data"]["num_clients"]) + sum(1 if n is None else n for n in counts)


def _list_adversaries(experiment: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the adversaries of an experiment as a list."""
    adversaries = experiment.get("adversary") or []
    return adversaries if isinstance(adversaries, list) else [adversaries]


def _find_absences(experiment: Mapping[str, Any], shape: tuple[int, int]) -> Flags:
    """Return the [clients, rounds] flags of absent clients."""
    away = np.zeros(shape, dtype=np.bool_)
    stays = experiment["participation"].get("stays", [])
    for client in {stay["client"] for stay in stays}:
        away[client] = True
    for stay in stays:
        away[stay["client"], stay["first_round"] - 1 : stay["last_round"]] = False
    return away


def _find_attacks(
    experiment: Mapping[str, Any], by_client: pd.DataFrame, shape: tuple[int, int]
) -> Flags | None:
    """Return the [clients, rounds] flags of misbehaving clients, or None if unknown.

    They are read from the rows if every client was scored after every round. Otherwise the
    schedule of the experiment is drawn again, for which PyTorch is imported.
    """
    if not _list_adversaries(experiment):
        return np.zeros(shape, dtype=np.bool_)
    scored = by_client[by_client["metric"] == "client_accuracy"]
    if bool(_mark_rows(shape, scored).all()):
        return _mark_rows(shape, scored[scored["group"] == "attacker"])
    return _replay_attacks(json.dumps(experiment), shape)


def _replay_attacks(text: str, shape: tuple[int, int]) -> Flags | None:
    from fl_sim.experiment import Experiment
    from fl_sim.schedule import Schedule

    try:
        schedule = Schedule(Experiment.from_json(text))
    except RequestError:
        return None
    plan = [schedule.attackers(i) for i in range(1, shape[1] + 1)]
    return np.array([[client in attackers for attackers in plan] for client in range(shape[0])])


def find_intervals(flags: Flags) -> list[tuple[int, int]]:
    """Return the first and the last round of each interval of true values.

    >>> find_intervals(np.array([False, True, True, False, True]))
    [(2, 3), (5, 5)]
    """
    edges = np.flatnonzero(np.diff(flags.astype(int), prepend=0, append=0))
    return [(int(a) + 1, int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _mark_rows(shape: tuple[int, int], table: Any) -> Flags:
    """Return [clients, rounds] flags that are true where the table has a row."""
    flags = np.zeros(shape, dtype=np.bool_)
    flags[table["client"].to_numpy(int), table["round"].to_numpy(int) - 1] = True
    return flags


@rc_context(STYLE)
def _draw_timeline(setting: Setting, line: Timeline, name: str) -> Drawing:
    which = f" of {setting.label}" if setting.label else ""
    caption = (
        f"Clients by round in seed {setting.first_seed}{which}, above the accuracy after each "
        "round. A square is a client that delivered; a client without one was not selected or "
        "did not deliver."
    )
    if line.sentence:
        caption = f"{line.sentence[:1].upper()}{line.sentence[1:]}. {caption}"
    shown = line.select_clients()
    if len(shown) < len(line.delivered):
        caption += f" {len(shown)} of {len(line.delivered)} clients are drawn."
    if len(setting.folders) > 1:
        caption += " Grey curves: the other seeds, in which other clients may be drawn."
    height = 0.5 + 0.17 * len(shown)
    figure = create_figure(height + 2.3)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[height, 1.9])
    _draw_squares(above, line, shown)
    _draw_accuracy(below, setting, line)
    figure.legend(handles=_create_legend(line), loc="outside upper left", ncols=6)
    return export_figure(name, figure, caption)


def _draw_squares(axes: Axes, line: Timeline, shown: list[int]) -> None:
    """Draw a square per client and round, and the marks on it."""
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
    """Draw the accuracy curves over the spans of attacks and protection."""
    rows, rounds = setting.metric_rows("accuracy"), line.delivered.shape[1]
    for seed in reversed(list(setting.folders)):
        rows_of_seed = rows[rows["seed"] == seed].sort_values("round")
        colour, width = (INK, 1.8) if seed == setting.first_seed else (FAINT, 1.0)
        values = 100 * rows_of_seed["value"].to_numpy(float)
        axes.plot(rows_of_seed["round"].to_numpy(int), values, color=colour, linewidth=width)
    spans = (
        (_find_protected_rounds(line), SKY, "protected"),
        (np.logical_or.reduce(line.attacked), ORANGE, "attacked"),
    )
    for layer, (flags, colour, label) in enumerate(spans):
        for i, (first, last) in enumerate(find_intervals(flags)):
            ends = first - 0.5, last + 0.5
            order: dict[str, Any] = {"linewidth": 0, "zorder": 0.5 + layer / 10}
            axes.axvspan(*ends, color="white", **order)  # so that colours do not mix
            axes.axvspan(*ends, color=colour, alpha=0.22, **order)
            if i == 0:
                _annotate(axes, ends[0], label)
    for number, words in _list_changes(line).items():
        axes.axvline(number - 0.5, color=GREY, linestyle=":", linewidth=1)
        for place, label in enumerate(words):
            _annotate(axes, number - 0.5, label, height=0.86 - 0.11 * place)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.25 * (high - low))  # space for the labels
    axes.set_xlim(0.5, rounds + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=20))
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy, %")


def _annotate(axes: Axes, place: float, words: str, height: float = 0.97) -> None:
    """Write a label above the curves."""
    where = axes.get_xaxis_transform()
    axes.text(place + 0.1, height, words, transform=where, va="top", fontsize=8, color=INK)


def _list_changes(line: Timeline) -> dict[int, list[str]]:
    """Return the labels of rounds in which clients leave or return, or the rule changes.

    Clients are left out if there are too many of such rounds.
    """
    moves: dict[tuple[int, str], list[int]] = {}
    for client, away in enumerate(line.away):
        for first, last in find_intervals(away):
            if first > 1:
                moves.setdefault((first, "leaves"), []).append(client)
            if last < len(away):
                moves.setdefault((last + 1, "returns"), []).append(client)
    words: dict[int, list[str]] = {}
    for (number, verb), clients in moves.items() if len(moves) <= MAX_DEPARTURES else ():
        verb = verb if len(clients) == 1 else verb.removesuffix("s")
        named = f"client{'s' * (len(clients) > 1)} {' and '.join(map(str, clients))}"
        words.setdefault(number, []).append(f"{named} {verb}")
    for number, rule in line.rules.items():
        words.setdefault(number, []).append(f"{rule} from here on")
    return words


def _find_protected_rounds(line: Timeline) -> Flags:
    """Return the flags of rounds with protection, all false if all rounds have it."""
    rounds: Flags = np.logical_or.reduce(line.protected)
    return rounds & ~rounds.all()


def _create_legend(line: Timeline) -> list[Any]:
    """Return a legend handle for every kind of event that occurs."""
    marks: dict[str, Any] = {"markersize": 5, "linestyle": "none"}
    handles = [
        (~line.protected & line.delivered, Patch(color=PALE, label="trained on clean images")),
        (line.protected & line.delivered, Patch(color=SKY, label="protected images")),
        (line.attacked, Line2D([], [], color=ORANGE, marker="v", label="attacked", **marks)),
        (line.lost, Line2D([], [], color=INK, marker="x", label="did not deliver", **marks)),
        (line.away, Line2D([], [], color=GREY, linestyle=":", label="away")),
    ]
    return [handle for flags, handle in handles if flags.any()]
