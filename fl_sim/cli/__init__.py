"""The command line `fl-sim`: it parses arguments, calls the library, and prints results."""

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TextIO, get_type_hints

import click
import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.models import ArgumentInfo

from fl_sim.cli import (
    export_command,
    list_commands,
    plugin_commands,
    protect_command,
    result_commands,
    run_commands,
    tradeoffs_command,
)
from fl_sim.cli.terminal import stop
from fl_sim.core import user_modules
from fl_sim.core.errors import RequestError, RequestWarning, RunFailedError
from fl_sim.core.portable import choose_portable_instructions, refuse_other_processor


def _rename_option(name: str) -> str:
    return "batch-clients" if name == "cohort" else name


def _declare_plugins(context: click.Context, option: click.Parameter, names: Sequence[str]) -> None:
    user_modules.declare(*names)


def _choose_instructions(
    context: click.Context, option: click.Parameter, wanted: bool | None
) -> None:
    if wanted:
        refuse_other_processor()
        choose_portable_instructions()


class Command(TyperCommand):
    """A command that shows the help of its arguments, and takes `--cohort` as an old name.

    Every command has the option `--plugins`, and those that compute have `--portable`. Flower needs
    a Typer below 0.21, whose arguments lose their help with click 8.5.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        """Take the help of each argument from the signature of the command's function."""
        settings["context_settings"] = {"token_normalize_func": _rename_option}
        settings["rich_markup_mode"] = "rich"  # which its group does without
        super().__init__(*args, **settings)
        self.params.append(
            TyperOption(
                param_decls=["--plugins"],
                type=str,
                multiple=True,
                metavar="MODULE",
                expose_value=False,
                is_eager=True,
                callback=_declare_plugins,
                help="Module or package with plug-ins of your own, by name or path; repeatable.",
            )
        )
        if any(param.name == "device" for param in self.params):
            self.params.append(
                TyperOption(
                    param_decls=["--portable"],
                    is_flag=True,
                    expose_value=False,
                    is_eager=True,
                    callback=_choose_instructions,
                    help="Compute the same bits on every x86-64 processor, more slowly.",
                )
            )
        hints = get_type_hints(self.callback, include_extras=True)
        for param in self.params:
            if isinstance(param, TyperArgument) and param.name is not None:
                (info,) = (i for i in hints[param.name].__metadata__ if isinstance(i, ArgumentInfo))
                param.help = info.help


class Group(TyperGroup):
    """A group whose help lists its commands under the titles of their panels."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list of commands for each panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            title = getattr(command, "rich_help_panel", None)
            row = (name, command.get_short_help_str(limit=1000))  # whole first sentence
            panels.setdefault(title if isinstance(title, str) else "Commands", []).append(row)
        for title, rows in panels.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def _make_group(text: str, **settings: Any) -> typer.Typer:
    # Without rich, whose import takes longer than all else of --help.
    return typer.Typer(
        cls=Group, help=text, no_args_is_help=True, rich_markup_mode=None, **settings
    )


RUN, READ, IMAGES, OWN = "Experiments", "Results", "Images", "Plug-ins and set-up"
app = _make_group(
    "Simulate federated learning in which some participants protect their data.",
    pretty_exceptions_enable=False,
)
export_app = _make_group("Write finished runs and their reports in other formats.")
data_app = _make_group("List and fetch datasets.")
expected_app = _make_group("Record, compare and tabulate the expected results of experiments.")


def _print_version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        print(f"fl-sim {version('fl-sim')}")
        raise typer.Exit
    return wanted


@app.callback()
def _configure(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version, and exit."
        ),
    ] = False,
) -> None:
    """Take the options of the program itself."""


app.command(cls=Command, rich_help_panel=RUN)(run_commands.run)
app.command(cls=Command, rich_help_panel=RUN)(run_commands.sweep)
app.command("study", cls=Command, rich_help_panel=RUN)(run_commands.study_)
app.command("profile", cls=Command, rich_help_panel=RUN)(run_commands.profile_)
app.command(cls=Command, rich_help_panel=READ)(result_commands.report)
app.command(cls=Command, rich_help_panel=READ)(result_commands.watch)
app.command(cls=Command, rich_help_panel=READ)(result_commands.compare)
app.command(cls=Command, rich_help_panel=READ)(tradeoffs_command.tradeoffs)
app.command(cls=Command, rich_help_panel=READ)(result_commands.audit)
app.add_typer(export_app, name="export", rich_help_panel=READ)
export_app.command("tables", cls=Command)(export_command.export_tables)
export_app.command("figures", cls=Command)(export_command.export_figures)
export_app.command("crate", cls=Command)(export_command.export_crate)
export_app.command("model", cls=Command)(export_command.export_model)
export_app.command("adapter", cls=Command)(export_command.export_adapter)
app.add_typer(expected_app, name="expected", rich_help_panel=READ)
expected_app.command("record", cls=Command)(result_commands.expected_record)
expected_app.command("compare", cls=Command)(result_commands.expected_compare)
expected_app.command("tables", cls=Command)(result_commands.expected_tables)
app.command(cls=Command, rich_help_panel=IMAGES)(protect_command.protect)
app.add_typer(data_app, name="data", rich_help_panel=IMAGES)
data_app.command("list", cls=Command)(list_commands.data_list)
data_app.command("fetch", cls=Command)(list_commands.data_fetch)
app.command("list", cls=Command, rich_help_panel=OWN)(list_commands.list_)
app.command(cls=Command, rich_help_panel=OWN)(list_commands.describe)
app.command(cls=Command, rich_help_panel=OWN)(plugin_commands.new)
app.command(cls=Command, rich_help_panel=OWN)(plugin_commands.check)
app.command("doctor", cls=Command, rich_help_panel=OWN)(list_commands.doctor_)


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
        sys.exit(app(prog_name="fl-sim", standalone_mode=False) or 0)
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
