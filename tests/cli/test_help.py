"""Help of the command line: every command, argument and option has a text."""

from collections.abc import Iterator

import click
import pytest
import typer

from fl_sim.cli import app


def commands(group: click.Command, *above: str) -> Iterator[tuple[str, click.Command]]:
    """Yield all commands below a group by their names."""
    yield " ".join(above), group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *above, name)


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_argument_and_option_has_a_help_text(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    command = COMMANDS[name]
    app([*name.split(), "--help"], standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    texts = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
    assert all(texts), name
    assert all(" ".join(str(text).split()) in shown for text in texts)


@pytest.mark.parametrize("name", ["run", "sweep", "profile"])
@pytest.mark.parametrize("option", ["--batch-clients", "--cohort"])
def test_the_old_name_of_an_option_is_accepted(name: str, option: str) -> None:
    command = COMMANDS[name]
    context = command.make_context(name, ["file.py", option, "off"])
    assert context.params["batch_clients"] == "off"
