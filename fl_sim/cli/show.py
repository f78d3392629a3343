"""How results are shown: a table in the terminal, and where the page is."""

from rich.console import Console

from fl_sim.cli.terminal import console, say
from fl_sim.report import tables
from fl_sim.results import Results
from fl_sim.results.studies import StudyResults


def show(results: Results, where: Console = console) -> None:
    """Print the table of an experiment's results, and write its page."""
    from fl_sim.report import page  # drawing takes a second to import; a run should start now

    for line in results.damaged:
        say(f"damaged: {line}")
    where.print(tables.summary(results))
    where.print(f"report: {page.write(results)}", soft_wrap=True)


def show_study(results: StudyResults) -> None:
    """Print the table of a study's results, and write its page."""
    from fl_sim.report import study

    for line in results.damaged:
        say(f"damaged: {line}")
    console.print(study.summary(results))
    console.print(f"report: {study.write(results)}", soft_wrap=True)
