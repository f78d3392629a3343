"""Combinations that the grid left out, and the reasons."""

from fl_sim.report.components import Cell, Section, build_table
from fl_sim.report.grid import Grid, shorten_path
from fl_sim.report.skipped import group_skipped


def build_skipped(grid: Grid) -> Section | None:
    """Return the skipped combinations with their reasons, or None if there are none."""
    settings = group_skipped(grid.results.skipped)
    if not settings:
        return None
    axes = tuple(settings[0].values)
    heads = ["reason", *([shorten_path(axis, axes) for axis in axes] or ["run"])]
    rows = [
        [
            Cell(setting.reason),
            *map(Cell, setting.values.values() or [grid.name]),
            Cell(", ".join(map(str, setting.seeds))),
        ]
        for setting in sorted(settings, key=lambda setting: setting.reason)
    ]
    note = (
        "These combinations are part of the grid and were not run: the experiment's SKIP names "
        "them, or they cannot be run and the sweep was started with --skip-invalid. No number on "
        "this page includes them."
    )
    table = build_table("Skipped combinations", heads, ["seeds"], rows, False)
    return Section("skipped", "Skipped combinations", (note,), (table,))
