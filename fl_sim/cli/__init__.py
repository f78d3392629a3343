"""The command line `fl-sim`: it parses arguments, calls the library, and prints results."""

import sys
import warnings
from collections.abc import Callable
from typing import Any, TextIO, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand
from typer.models import ArgumentInfo

from fl_sim.cli import (
    export_command,
    list_commands,
    protect_command,
    result_commands,
    run_commands,
    tradeoffs_command,
)
from fl_sim.cli.terminal import stop
from fl_sim.core.errors import RequestError, RequestWarning, RunFailedError


def _rename_option(name: str) -> str:
    return "batch-clients" if name == "cohort" else name


class Command(TyperCommand):
    """A command that shows the help of its arguments, and takes `--cohort` as an old name.

    Flower needs a Typer below 0.21, whose arguments lose their help with click 8.5.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        """Take the help of each argument from the signature of the command's function."""
        settings["context_settings"] = {"token_normalize_func": _rename_option}
        super().__init__(*args, **settings)
        hints = get_type_hints(self.callback, include_extras=True)
        for param in self.params:
            if isinstance(param, TyperArgument) and param.name is not None:
                (info,) = (i for i in hints[param.name].__metadata__ if isinstance(i, ArgumentInfo))
                param.help = info.help


app = typer.Typer(
    help="Simulate federated learning in which some participants protect their data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
export_app = typer.Typer(help="Write finished runs for other libraries.", no_args_is_help=True)
data_app = typer.Typer(help="List and fetch datasets.", no_args_is_help=True)
expected_app = typer.Typer(
    help="Record, compare and tabulate the expected results of experiments.", no_args_is_help=True
)

app.command(cls=Command)(run_commands.run)
app.command(cls=Command)(run_commands.sweep)
app.command("study", cls=Command)(run_commands.study_)
app.command("profile", cls=Command)(run_commands.profile_)
app.command(cls=Command)(result_commands.report)
app.command(cls=Command)(tradeoffs_command.tradeoffs)
app.command(cls=Command)(result_commands.audit)
app.command(cls=Command)(protect_command.protect)
app.add_typer(export_app, name="export")
export_app.command("adapter", cls=Command)(export_command.export_adapter)
app.add_typer(expected_app, name="expected")
expected_app.command("record", cls=Command)(result_commands.expected_record)
expected_app.command("compare", cls=Command)(result_commands.expected_compare)
expected_app.command("tables", cls=Command)(result_commands.expected_tables)
app.command("list", cls=Command)(list_commands.list_)
app.add_typer(data_app, name="data")
data_app.command("list", cls=Command)(list_commands.data_list)
data_app.command("fetch", cls=Command)(list_commands.data_fetch)
app.command("doctor", cls=Command)(list_commands.doctor_)


SHOW = warnings.showwarning  # the function of Python itself


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a `RequestWarning` in one line, and any other warning as Python does."""
    if issubclass(category, RequestWarning):
        print(f"warning: {message}", file=sys.stderr)
    else:
        SHOW(message, category, filename, lineno, file, line)


def _drop_repeated_advice(message: str) -> str:
    """Return an error message of the parser, whose advice is given twice, with one copy of it."""
    words, question, advice = message.partition(" Did you mean ")
    return words + question + advice.partition(question)[0] if question else message


def main() -> None:
    """Run the command line; exit with 0, 1 if a run failed, or 2 for a wrong request."""
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
        format_message: Callable[[], str] | None = getattr(error, "format_message", None)
        if format_message is None:
            raise
        stop(f"error: {_drop_repeated_advice(format_message())}", 2)
