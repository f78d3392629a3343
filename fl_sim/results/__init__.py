"""Results of runs and studies, read from their folders, checked, and returned as data frames."""

from fl_sim.results.comparison import compare, load_run
from fl_sim.results.folders import FILES, MODEL, RESULT, ROWS, read_result, run_folder
from fl_sim.results.studies import StudyResults, load_study
from fl_sim.results.summaries import compare_with_controls, compare_with_honest, summarise_rows
from fl_sim.results.tables import Results, load_results, make_rows_table, read_run_rows

__all__ = [
    "FILES",
    "MODEL",
    "RESULT",
    "ROWS",
    "Results",
    "StudyResults",
    "compare",
    "compare_with_controls",
    "compare_with_honest",
    "load_results",
    "load_run",
    "load_study",
    "make_rows_table",
    "read_result",
    "read_run_rows",
    "run_folder",
    "summarise_rows",
]
