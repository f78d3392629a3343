"""Results of runs and studies: read from their folders, checked, and returned as pandas frames."""

from fl_sim.results.folders import (
    AUDIT,
    AUDIT_FINDINGS,
    AUDIT_RECORDS,
    FILES,
    MODEL,
    RESULT,
    ROWS,
    checked_result,
    read_audit,
    run_folder,
    seal_audit,
)
from fl_sim.results.studies import StudyResults, load_study
from fl_sim.results.summaries import final_numbers, protection_numbers
from fl_sim.results.tables import SETTINGS, Results, load_results, rows_of_runs, rows_table

__all__ = [
    "AUDIT",
    "AUDIT_FINDINGS",
    "AUDIT_RECORDS",
    "FILES",
    "MODEL",
    "RESULT",
    "ROWS",
    "SETTINGS",
    "Results",
    "StudyResults",
    "checked_result",
    "final_numbers",
    "load_results",
    "load_study",
    "protection_numbers",
    "read_audit",
    "rows_of_runs",
    "rows_table",
    "run_folder",
    "seal_audit",
]
