"""Clients one by one: how well the model serves each, and who holds what."""

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from fl_sim.report.formats import count
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.panels import axes_of, few_panels, label_outside, undrawn
from fl_sim.report.parts import Drawing
from fl_sim.report.style import COLOURS, INK, STYLE, drawn

GROUPS = {
    "clean": COLOURS[2],
    "mixed": COLOURS[4],
    "protected": COLOURS[1],
    "attacker": COLOURS[6],
}
MAX_BARS = 12  # panels of bars
MAX_PARTITIONS = 4
MANY = 30  # clients or classes, above which they are not named one by one
FEW = 14  # above which numbers do not fit into the picture

Samples = dict[str, NDArray[np.generic]]


def accuracy_by_client(grid: Grid) -> Drawing | None:
    """Draw each client's accuracy on its own mix of classes, lowest first."""
    settings = grid.finished[: few_panels(grid, MAX_BARS)]
    if not settings or not grid.has_clients:
        return None
    about = (
        "Accuracy on each client's own mix of classes after the last round, lowest first, of "
        f"{grid.shown_seeds}. The dashed line is the mean over the clients that have one; where "
        "a client holds a class without a test image, or the model diverged, its accuracy is not "
        "defined. A client is called "
        "protected above three quarters of its images, clean below one quarter, mixed between, and "
        "an attacker while it misbehaves, whatever it protects."
    )
    about += undrawn(grid, settings)
    return drawn("accuracy_by_client", _bars_figure(settings), about, about)


@rc_context(STYLE)
def _bars_figure(settings: Sequence[Setting]) -> Figure:
    columns = min(3, len(settings))
    titles = [setting.label for setting in settings]
    figure, axes = axes_of(titles, columns, sharey=True)
    for setting, own in zip(settings, axes, strict=True):
        _bars(own, setting)
    label_outside(axes, columns, "client", "accuracy, %")
    there = {group for setting in settings for group in setting.clients("client_accuracy")["group"]}
    patches = [Patch(color=GROUPS[group], label=group) for group in GROUPS if group in there]
    figure.legend(handles=patches, loc="outside upper left", ncols=len(patches))
    return figure


def _bars(axes: Axes, setting: Setting) -> None:
    rows = setting.clients("client_accuracy").sort_values("value", kind="stable")
    values = 100 * rows["value"].to_numpy(float)
    places = np.arange(len(values))
    axes.bar(places, values, color=[GROUPS[group] for group in rows["group"]], width=0.8)
    if np.isfinite(values).any():
        axes.axhline(float(np.nanmean(values)), color=INK, linestyle="--", linewidth=0.8)
    for place in places[np.isnan(values)]:
        axes.text(place, 1, "not defined", rotation=90, ha="center", va="bottom", fontsize=6)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, 100)
    named = len(values) <= MANY
    axes.set_xticks(places if named else [], rows["client"].astype(str) if named else [])


def classes_by_client(grid: Grid) -> Drawing | None:
    """Draw how many images of each class each client holds, for every distinct partition."""
    partitions = _partitions(grid)
    if not partitions or not grid.has_clients:
        return None
    clients, classes = partitions[0][1]["client_classes"].shape
    about = (
        f"Images of each class at each client, trained on or held out, of "
        f"{grid.shown_seeds}: {count(clients, 'client')}, {classes} classes. "
        "The darker, the more."
    )
    return drawn("classes_by_client", _partitions_figure(partitions), about, about)


def _partitions(grid: Grid) -> list[tuple[str, Samples]]:
    """Return a title and the samples for each way in which images are shared out."""
    found: dict[bytes, tuple[str, Samples]] = {}
    for setting in grid.ones_apart("data", "partition"):
        samples = setting.samples()
        if samples is not None:
            words = [
                w for axis, w in setting.values.items() if axis.startswith(("partition", "data"))
            ]
            found.setdefault(samples["client_classes"].tobytes(), (" · ".join(words), samples))
        if len(found) == MAX_PARTITIONS:
            break
    return list(found.values())


@rc_context(STYLE)
def _partitions_figure(partitions: Sequence[tuple[str, Samples]]) -> Figure:
    columns = min(2, len(partitions))
    num_clients = max(len(samples["client_classes"]) for _, samples in partitions)
    height = min(8.0, 1.2 + 0.27 * num_clients)
    figure, axes = axes_of([title for title, _ in partitions], columns, height)
    for (_, samples), own in zip(partitions, axes, strict=True):
        _heat_map(own, samples["client_classes"], [str(n) for n in samples["class_names"]])
    label_outside(axes, columns, "", "client (images)" if num_clients <= MANY else "client")
    return figure


def _heat_map(axes: Axes, counts: NDArray[np.generic], names: Sequence[str]) -> None:
    clients, classes = counts.shape
    axes.imshow(counts, aspect="auto", cmap="Blues", vmin=0, interpolation="none")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if classes <= MANY:
        axes.set_xticks(range(classes), names, rotation=30, ha="right", rotation_mode="anchor")
    if clients <= MANY:
        labels = [f"{i} ({total})" for i, total in enumerate(counts.sum(1))]
        axes.set_yticks(range(clients), labels)
    if clients > MANY or classes > FEW:
        return
    for (i, j), value in np.ndenumerate(counts):
        colour = "white" if value > 0.6 * counts.max() else INK
        axes.text(j, i, str(value), ha="center", va="center", fontsize=7.5, color=colour)
