"""Images of each class at each client."""

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from numpy.typing import NDArray

from fl_sim.report.components import Drawing, Section, build_figure_section
from fl_sim.report.formats import format_count
from fl_sim.report.grid import Grid
from fl_sim.report.panels import create_panels
from fl_sim.report.style import INK, STYLE, export_figure

MAX_PARTITIONS = 4
MANY = 30  # clients or classes; more are not named
SHORT = 2  # letters of a name that is not rotated
FEW = 14  # classes; numbers of more do not fit into the squares
Samples = dict[str, NDArray[np.generic]]


def build_client_classes(grid: Grid) -> Section | None:
    """Return the section, or None if there is nothing to draw."""
    return build_figure_section("classes", "Classes per client", draw_classes_by_client(grid))


@rc_context(STYLE)
def draw_classes_by_client(grid: Grid) -> Drawing | None:
    """Draw the number of images per client and class, for every distinct partition."""
    partitions = _find_partitions(grid)
    if not partitions or not grid.has_clients:
        return None
    clients, classes = partitions[0][1]["client_classes"].shape
    caption = (
        f"Number of images per client and class, including those held out, in "
        f"{grid.shown_seeds}: {format_count(clients, 'client')}, {classes} classes. "
        "Darker squares hold more."
    )
    num_clients = max(len(samples["client_classes"]) for _, samples in partitions)
    labels = ("class", "client (images)" if num_clients <= MANY else "client")
    height = min(8.0, 1.2 + 0.27 * num_clients)
    figure, axes = create_panels([title for title, _ in partitions], 2, height, labels)
    for (_, samples), ax in zip(partitions, axes, strict=True):
        _draw_counts(ax, samples["client_classes"], [str(n) for n in samples["class_names"]])
    return export_figure("classes_by_client", figure, caption)


def _find_partitions(grid: Grid) -> list[tuple[str, Samples]]:
    """Return a title and the samples of every distinct partition."""
    partitions: dict[bytes, tuple[str, Samples]] = {}
    for setting in grid.select_distinct("data", "partition"):
        samples = setting.read_samples()
        if samples is not None:
            values = setting.values.items()
            words = [word for axis, word in values if axis.startswith(("partition", "data"))]
            partitions.setdefault(samples["client_classes"].tobytes(), (" · ".join(words), samples))
        if len(partitions) == MAX_PARTITIONS:
            break
    return list(partitions.values())


def _draw_counts(axes: Axes, counts: NDArray[np.generic], names: Sequence[str]) -> None:
    clients, classes = counts.shape
    axes.imshow(counts, aspect="auto", cmap="Blues", vmin=0, interpolation="none")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if classes <= MANY and max(map(len, names)) <= SHORT:
        axes.set_xticks(range(classes), names)
    elif classes <= MANY:
        axes.set_xticks(range(classes), names, rotation=30, ha="right", rotation_mode="anchor")
    if clients <= MANY:
        labels = [f"{i} ({total})" for i, total in enumerate(counts.sum(1))]
        axes.set_yticks(range(clients), labels)
    if clients > MANY or classes > FEW:
        return
    for (i, j), value in np.ndenumerate(counts):
        colour = "white" if value > 0.6 * counts.max() else INK
        axes.text(j, i, str(value), ha="center", va="center", fontsize=7.5, color=colour)
