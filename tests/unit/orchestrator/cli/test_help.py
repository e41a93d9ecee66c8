"""Every command says what it does, with an example."""

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from orchestrator.cli import app

COMMANDS = (
    *[
        "run",
        "submit",
        "serve",
        "status",
        "watch",
        "logs",
        "explain",
        "pause",
        "resume",
        "cancel",
        "retry",
        "clone",
        "extend",
        "report",
        "studies",
        "ablate",
        "profile",
        "simulate",
    ],
    *("token create", "token list", "token revoke"),
    *("trace export", "trace generate", "trace replay"),
    "tune packing",
    *("cache ls", "cache gc"),
)


def test_the_list_of_commands_is_complete() -> None:
    assert {name.split()[0] for name in COMMANDS} == set(get_command(app).commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_an_example_of_it(command: str) -> None:
    done = CliRunner().invoke(app, [*command.split(), "--help"])
    assert done.exit_code == 0
    assert f"orchestrator {command}" in done.output.partition("Example")[2]


def test_the_exit_codes_are_in_the_first_help_page() -> None:
    assert "Exit codes: 0" in CliRunner().invoke(app, ["--help"]).output
