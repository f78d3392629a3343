"""Display of results: a table in the terminal, and the path of the report."""

from rich.console import Console

from fl_sim.cli.terminal import console, print_error
from fl_sim.report import tables
from fl_sim.results import Results, StudyResults


def show(results: Results | StudyResults, terminal: Console = console) -> None:
    """Print the table of results of an experiment or a study, and write its report."""
    from fl_sim.report import page, study  # takes a second

    for line in results.damaged:
        print_error(f"damaged: {line}")
    for line in () if isinstance(results, StudyResults) else results.failed_controls:
        print_error(f"a control failed: {line}")
    if isinstance(results, StudyResults):
        table, path = study.build_study_table(results), study.write_study_page(results)
    else:
        table, path = tables.build_summary_table(results), page.write_page(results)
    terminal.print(table)
    terminal.print(f"report: {path}", soft_wrap=True)
