"""What all commands share: the terminal, how they end, and how results are shown."""

import sys
from typing import NoReturn

from rich.console import Console

from fl_sim.report import tables
from fl_sim.results import Results
from fl_sim.study_results import StudyResults

console = Console()


def stop(message: str, code: int) -> NoReturn:
    """Say why on standard error, and end with an exit code."""
    print(message, file=sys.stderr)
    sys.exit(code)


def say(message: str) -> None:
    """Say something on standard error, in one line."""
    print(" ".join(message.split()), file=sys.stderr)


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
