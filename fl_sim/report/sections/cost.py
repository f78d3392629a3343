"""Cost of the runs: time, traffic and memory."""

from fl_sim.report.components import Cell, Section
from fl_sim.report.formats import (
    COUNT,
    CPU_SECONDS,
    MEBIBYTES,
    MEGABYTES,
    SECONDS,
    NumberFormat,
    format_over_seeds,
)
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.setting_tables import build_setting_table
from fl_sim.report.tables import explain_undefined

COSTS = (
    ("CPU seconds", "cost.cpu_seconds", CPU_SECONDS),
    ("clock seconds", "cost.seconds", SECONDS),
    ("MB up", "cost.bytes_up", MEGABYTES),
    ("MB down", "cost.bytes_down", MEGABYTES),
    ("peak MiB", "cost.peak_mib", MEBIBYTES),
    ("values trained or sent", "num_parameters", COUNT),
)


def build_cost(grid: Grid) -> Section | None:
    """Return the cost of a run per setting."""
    if not grid.finished:
        return None
    cost_table = build_setting_table(
        grid,
        "Cost of a run",
        [name for name, _, _ in COSTS],
        lambda setting: [_build_cell(grid, setting, name, form) for _, name, form in COSTS],
    )
    note = (
        "Totals over all rounds and clients. Clock seconds and memory depend on this machine and "
        f"its load; bytes and parameters do not. {grid.time_note}"
    )
    reasons = [sentence for sentence in explain_undefined(grid) if sentence.startswith("CPU s")]
    return Section("cost", "Cost", (note, *reasons), (cost_table,))


def _build_cell(grid: Grid, setting: Setting, name: str, form: NumberFormat) -> Cell:
    """Return a cost; clock seconds that include the load of other runs are greyed out."""
    shared = name == "cost.seconds" and grid.num_parallel_runs > 1
    doubt = f"{grid.num_parallel_runs} runs shared the machine" if shared else ""
    return Cell(format_over_seeds(setting.summary_values(name), form), doubt)
