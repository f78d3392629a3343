"""Results of runs and studies: read from their folders, checked, and returned as pandas frames."""

from fl_sim.results.folders import FILES, MODEL, RESULT, ROWS, checked_result, run_folder
from fl_sim.results.studies import StudyResults, load_study
from fl_sim.results.summaries import final_numbers, protection_numbers
from fl_sim.results.tables import Results, load_results, rows_of_runs, rows_table

__all__ = [
    "FILES",
    "MODEL",
    "RESULT",
    "ROWS",
    "Results",
    "StudyResults",
    "checked_result",
    "final_numbers",
    "load_results",
    "load_study",
    "protection_numbers",
    "rows_of_runs",
    "rows_table",
    "run_folder",
]
