"""What all commands have in common: how they refuse, whom they ask, and how long they wait for an answer."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestrator.control.operations import Operations
    from orchestrator.schema import Command

EXIT_DECIDED, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130

ANSWER_TIMEOUT_S = 10.0
# Whether a service runs is asked only once an answer doesn't come at once.
_ASK_AFTER_S = 1.0
_POLL_S = 0.1

LATE = f"no answer within {ANSWER_TIMEOUT_S:.0f} s; the service takes it at the next step boundary"
QUEUED = "no service runs: it is queued and takes effect once `orchestrator serve` does"


class OutputFormat(StrEnum):
    """How something is printed."""

    table = "table"
    json = "json"


Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[OVERRIDE]...", help="Hydra overrides, sweeps included.", show_default=False),
]
StudyId = Annotated[str | None, typer.Argument(metavar="[STUDY]", help="A study's id; by default the last one.")]
TrialId = Annotated[str, typer.Argument(metavar="TRIAL", help="A trial's id; `orchestrator status` lists them.")]
Targets = Annotated[list[str], typer.Argument(metavar="TARGET", help="Ids of studies or trials.")]
Format = Annotated[OutputFormat, typer.Option(help="For people or for programs.")]


@contextmanager
def refusals() -> Iterator[None]:
    """Turns what the user can mend into one or two lines on standard error and exit code 2, Ctrl-C into 130."""
    from orchestrator.config import ConfigError
    from orchestrator.control.operations import Forbidden, ServiceUnavailable
    from orchestrator.ports import ClusterUnavailable, StoreUnavailable, TraceError, TrackingUnavailable

    unavailable = (ServiceUnavailable, ClusterUnavailable, StoreUnavailable, TrackingUnavailable)
    refused = (ConfigError, Forbidden, TraceError, *unavailable)
    try:
        yield
    except refused as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None


def author() -> str:
    """The name that stands beside commands of this process: the user's on this machine."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


@contextmanager
def operations(*, new: bool = False) -> Iterator["Operations"]:
    """Whom the environment says to ask. `new`: a home's store is made if it has none."""
    import gc

    from orchestrator.control.connect import connect
    from orchestrator.home import Home

    # A queue of 20,000 trials is a million objects and no garbage: looking for some takes a third of the time.
    gc.set_threshold(200_000)
    with closing(connect(Home.from_environment(), author(), new=new)) as found:
        yield found


def last_study(asked: "Operations") -> str:
    """The id of the study that was submitted last. Raises ConfigError if there is none."""
    return str(asked.report("")["study"]["id"])


def carry_out(asked: "Operations", queued: Sequence[tuple[str, int]]) -> int:
    """Print the answers to commands (target, command id) as they come. The exit code: 1 if one was refused."""
    code, served = EXIT_DECIDED, None
    for target, command_id in queued:
        command, served = _answered(asked, target, command_id, served)
        if command.answered_at is None:
            typer.echo(f"{target}: {LATE if served else QUEUED}")
        elif command.ok:
            typer.echo(f"{target}: {command.answer}")
        else:
            typer.echo(f"error: {target}: {command.answer}", err=True)
            code = EXIT_FAILED
    return code


def _answered(asked: "Operations", target: str, command_id: int, served: bool | None) -> tuple["Command", bool | None]:
    """The command once it is answered, or as it stands when there is no use in waiting any longer; and whether a
    service runs, if that is known (None: nobody has asked yet)."""
    began = time.monotonic()
    while True:
        command = asked.answer(command_id)
        waited_s = time.monotonic() - began
        if command.answered_at is not None or served is False or waited_s >= ANSWER_TIMEOUT_S:
            return command, served
        if served is None and waited_s >= _ASK_AFTER_S:
            served = bool(asked.status(target)["service"]["served"])
        else:
            time.sleep(_POLL_S)
