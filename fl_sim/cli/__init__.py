"""The command line: parse, call, print; no logic."""

import sys
import warnings
from collections.abc import Callable
from typing import TextIO

import typer

from fl_sim.cli import list_commands, protect_command, result_commands, run_commands
from fl_sim.cli.terminal import stop
from fl_sim.core.errors import RequestError, RequestWarning, RunFailedError

app = typer.Typer(
    help="Federated learning when some participants protect their data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Datasets: what there is, and how to get it.", no_args_is_help=True)
expected_app = typer.Typer(help="What experiments gave, and give.", no_args_is_help=True)

app.command()(run_commands.run)
app.command()(run_commands.sweep)
app.command("study")(run_commands.study_)
app.command("profile")(run_commands.profile_)
app.command()(result_commands.report)
app.command()(result_commands.audit)
app.command()(protect_command.protect)
app.add_typer(expected_app, name="expected")
expected_app.command("record")(result_commands.expected_record)
expected_app.command("compare")(result_commands.expected_compare)
expected_app.command("tables")(result_commands.expected_tables)
app.command("list")(list_commands.list_)
app.add_typer(data_app, name="data")
data_app.command("list")(list_commands.data_list)
data_app.command("fetch")(list_commands.data_fetch)
app.command("doctor")(list_commands.doctor_)


SHOW = warnings.showwarning  # as Python writes them


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Say in one line what is likely to disappoint; write other warnings as Python does."""
    if issubclass(category, RequestWarning):
        print(f"warning: {message}", file=sys.stderr)
    else:
        SHOW(message, category, filename, lineno, file, line)


def _drop_repeated_advice(message: str) -> str:
    """Return a message of the parser's without the repetition of its advice."""
    words, asked, advice = message.partition(" Did you mean ")
    return words + asked + advice.partition(asked)[0] if asked else message


def main() -> None:
    """Run the command line; the exit code is 0, 1 (a run failed) or 2 (a wrong request)."""
    warnings.showwarning = _warn
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except RequestError as error:
        stop(f"error: {' '.join(str(error).split())}", 2)
    except KeyboardInterrupt:
        stop("interrupted", 130)
    except RunFailedError as error:
        stop(f"failed: {error}", 1)
    except OSError as error:
        if error.filename is None:
            raise
        stop(f"failed: {error.strerror}: {error.filename}", 1)
    except Exception as error:
        show: Callable[[], str] | None = getattr(error, "format_message", None)
        if show is None:
            raise
        stop(f"error: {_drop_repeated_advice(show())}", 2)
