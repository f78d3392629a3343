"""Software and hardware of the runs, and their ids."""

from fl_sim.report.components import Cell, DefinitionList, Section, Table, build_table
from fl_sim.report.grid import Grid


def build_environment(grid: Grid) -> Section:
    """Return the environment of the runs, and a table of run ids."""
    names = dict.fromkeys(name for setting in grid.finished for name in setting.environment)
    entries = tuple(
        (name, ", ".join(dict.fromkeys(str(s.environment.get(name)) for s in grid.finished)))
        for name in names
    )
    paragraphs = (
        "The same experiment and seed give the same bits in the same environment, on every engine "
        "and for any number of workers.",
    )
    runs = _build_runs_table(grid)
    components = (DefinitionList(entries), runs) if entries else (runs,)
    return Section("environment", "Environment and runs", paragraphs, components)


def _build_runs_table(grid: Grid) -> Table:
    rows = []
    for setting in grid.settings:
        ids = ", ".join(dict.fromkeys(map(str, setting.cells["run_id"])))
        seeds = ", ".join(map(str, setting.cells["seed"]))
        states = ", ".join(dict.fromkeys(map(str, setting.cells["status"])))
        rows.append([*map(Cell, grid.describe(setting)), Cell(ids), Cell(seeds), Cell(states)])
    return build_table("Runs by setting", grid.heads, ["run id", "seeds", "status"], rows, False)
