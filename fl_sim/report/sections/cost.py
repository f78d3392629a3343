"""Cost of the runs: time, traffic and memory."""

from fl_sim.report.components import Cell, Section
from fl_sim.report.formats import COUNT, MEBIBYTES, MEGABYTES, SECONDS, format_over_seeds
from fl_sim.report.grid import Grid
from fl_sim.report.setting_tables import build_setting_table
from fl_sim.report.tables import explain_undefined

COSTS = (
    ("CPU seconds", "cost.cpu_seconds", SECONDS),
    ("seconds by the clock", "cost.seconds", SECONDS),
    ("MB up", "cost.bytes_up", MEGABYTES),
    ("MB down", "cost.bytes_down", MEGABYTES),
    ("peak MiB", "cost.peak_mib", MEBIBYTES),
    ("trained parameters", "num_parameters", COUNT),
)


def build_cost(grid: Grid) -> Section | None:
    """Return what the runs cost."""
    if not grid.finished:
        return None
    made = build_setting_table(
        grid,
        "Cost of a run",
        [name for name, _, _ in COSTS],
        lambda setting: [
            Cell(format_over_seeds(setting.summary_values(name), form)) for _, name, form in COSTS
        ],
    )
    about = (
        "Over all rounds and clients. Seconds by the clock and memory hold for this machine and "
        "its load, and include whatever else it did at the time; bytes and parameters hold "
        f"anywhere. {grid.time_note}"
    )
    reasons = [own for own in explain_undefined(grid) if own.startswith("CPU s")]
    return Section("cost", "Cost", (about, *reasons), (made,))
