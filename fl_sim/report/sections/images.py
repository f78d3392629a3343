"""Protected images beside clean ones, with amplified noise."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib import rc_context
from matplotlib.axes import Axes
from numpy.typing import NDArray

from fl_sim.report.components import Drawing, Section, build_figure_section
from fl_sim.report.formats import format_value
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.style import STYLE, WIDTH, create_figure, export_figure

GAIN = 10
MID_GREY = 128
MAX_SHEETS = 6

Images = UInt8[np.ndarray, "n c h w"]


def build_images(grid: Grid) -> Section | None:
    """Return the section, or None if there is nothing to draw."""
    return build_figure_section("images", "Protected images", *draw_image_sheets(grid))


def draw_image_sheets(grid: Grid) -> list[Drawing]:
    """Draw a sheet of images for every distinct protection that changes any."""
    setting_by_protection: dict[str, Setting] = {}
    for setting in grid.select_distinct("data", "partition", "protection", "layout"):
        name = json.dumps(_list_protections(setting.experiment))
        samples = None if name in setting_by_protection else setting.read_samples()
        if samples is not None and (samples["clean"] != samples["published"]).any():
            setting_by_protection[name] = setting
        if len(setting_by_protection) == MAX_SHEETS:
            break
    return [_draw_sheet(setting, i + 1) for i, setting in enumerate(setting_by_protection.values())]


def amplify_noise(clean: Images, published: Images) -> Images:
    """Return the noise, amplified by `GAIN`, around mid-grey."""
    noise = published.astype(int) - clean.astype(int)
    amplified: Images = np.clip(MID_GREY + GAIN * noise, 0, 255).astype(np.uint8)
    return amplified


def _list_protections(experiment: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the distinct protections of a layout, with the radii of its clauses."""
    usual, layout = experiment.get("protection"), experiment.get("layout")
    found = []
    for clause in layout if isinstance(layout, list) else [{}]:
        protection = clause.get("protection") or usual
        if protection is not None:
            radius = clause.get("radius")
            found.append(protection if radius is None else protection | {"radius": radius})
    return [each for place, each in enumerate(found) if each not in found[:place]]


def _describe_protection(protection: Mapping[str, Any]) -> str:
    words = str(protection["class"]).split(".")[-1]
    if "radius" not in protection:
        return words
    return f"{words}, radius {format_value(protection['radius'], 'radius')}"


@rc_context(STYLE)
def _draw_sheet(setting: Setting, number: int) -> Drawing:
    samples = setting.read_samples()
    assert samples is not None
    words = " and ".join(map(_describe_protection, _list_protections(setting.experiment)))
    largest = np.abs(samples["published"].astype(int) - samples["clean"].astype(int)).max()
    caption = (
        f"{words}: clean images, protected images, and their difference amplified {GAIN} times "
        f"around mid-grey. Largest change of a pixel: {largest}/255. Seed {setting.first_seed}."
    )
    names = [str(samples["class_names"][label]) for label in samples["labels"]]
    rows = {
        "clean": samples["clean"],
        "protected": samples["published"],
        f"noise x{GAIN}": amplify_noise(samples["clean"], samples["published"]),
    }
    figure = create_figure(len(rows) * WIDTH / 8.4 + 0.35)
    grid = figure.subplots(len(rows), 8, squeeze=False)
    for (title, images), row in zip(rows.items(), grid, strict=True):
        for image, axes in zip(images, row, strict=False):
            draw_image(axes, image)
        row[0].set_ylabel(title)
        for empty in row[len(images) :]:
            empty.set_visible(False)
    for name, axes in zip(names, grid[0], strict=False):
        axes.set_title(name, fontsize=8, fontweight="normal", loc="center")
    alt = f"{caption} Classes: {', '.join(names)}."
    return export_figure(f"images_{number}", figure, caption, alt)


def draw_image(axes: Axes, image: NDArray[np.generic]) -> None:
    """Draw one image, in grey or colour, without axes."""
    pixels = image.transpose(1, 2, 0)
    # interpolation "none" stores pixels as they are, so that they stay sharp when enlarged
    plane = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    axes.imshow(plane, cmap="grey", vmin=0, vmax=255, interpolation="none")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
