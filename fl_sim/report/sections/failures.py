"""Runs that did not finish, and clients that did not deliver."""

from collections.abc import Iterable

from fl_sim.report.components import Cell, Section, Table, build_table
from fl_sim.report.formats import format_count
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.tables import list_failed_runs

MAX_FAILURES = 50


def build_failures(grid: Grid) -> Section | None:
    """Return the runs that did not finish and the clients that did not deliver."""
    failed, lost = list_failed_runs(grid), grid.results.failures
    controls = grid.results.failed_controls
    if not failed and not controls and lost.empty:
        return None
    tables = []
    if failed:
        runs = ([*grid.describe(setting), str(seed), error] for setting, seed, error in failed)
        rows = [list(map(Cell, run)) for run in runs]
        caption = "Runs that did not finish"
        tables.append(build_table(caption, grid.heads, ["seed", "error"], rows, False))
    if len(lost):
        tables.append(_build_lost_clients_table(grid))
    words = f"{format_count(len(failed), 'run')} did not finish. Clients did not deliver "
    words += f"{format_count(len(lost), 'time')}, including controls."
    lines = [f"A control failed: {line}" for line in controls]
    return Section("failures", "Failures", (words, *lines), tuple(tables))


def _build_lost_clients_table(grid: Grid) -> Table:
    labels = _label_runs(grid.settings)
    lost = grid.results.failures
    rows = [
        [
            Cell(labels.get(str(run_id), f"control {run_id}") or grid.name),
            *(Cell(str(item)) for item in rest),
        ]
        for run_id, *rest in lost.head(MAX_FAILURES).itertuples(index=False)
    ]
    more = len(lost) - len(rows)
    caption = "Clients that did not deliver" + (f", the first {len(rows)}" if more else "")
    return build_table(caption, ["run"], ["seed", "round", "client", "cause"], rows, False)


def _label_runs(settings: Iterable[Setting]) -> dict[str, str]:
    """Return the label of every run id; settings without protection may share a run."""
    labels: dict[str, str] = {}
    for setting in settings:
        for run_id in setting.cells["run_id"]:
            labels.setdefault(str(run_id), setting.label)
    return labels
