"""Shows results: a table in the terminal, and the path of their page."""

from rich.console import Console

from fl_sim.cli.terminal import console, print_error
from fl_sim.report import tables
from fl_sim.results import Results, StudyResults


def show(results: Results | StudyResults, where: Console = console) -> None:
    """Print the table of an experiment's or a study's results, and write its page."""
    from fl_sim.report import page, study  # drawing takes a second to import; a run starts now

    for line in results.damaged:
        print_error(f"damaged: {line}")
    if isinstance(results, StudyResults):
        table, path = study.build_study_table(results), study.write_study_page(results)
    else:
        table, path = tables.build_summary_table(results), page.write_page(results)
    where.print(table)
    where.print(f"report: {path}", soft_wrap=True)
