"""Which processes of a service there are to kill, found by what they are and whose home they serve."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

KINDS = ("loop", "forkserver", "bundle", "tracker", "agent", "head")


def of_home(home: Path) -> Iterator[psutil.Process]:
    """Every process that was started for a home."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("ORCHESTRATOR_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def find(kind: str, home: Path, leader_pid: int) -> list[psutil.Process]:
    """The processes of one kind. Of the loop's there is one: the leader."""
    if kind == "loop":
        return [psutil.Process(leader_pid)] if psutil.pid_exists(leader_pid) else []
    is_it = _TESTS[kind]
    found = []
    for process in of_home(home):
        with contextlib.suppress(psutil.Error):
            if is_it(process):
                found.append(process)
    return found


def _command(process: psutil.Process | None) -> str:
    return "" if process is None else " ".join(process.cmdline())


def _is_of_the_forkserver(process: psutil.Process) -> bool:
    return "cluster.forkserver" in _command(process)


def _is_bundle(process: psutil.Process) -> bool:
    return _is_of_the_forkserver(process) and _is_of_the_forkserver(process.parent())


_TESTS: dict[str, Callable[[psutil.Process], bool]] = {
    "forkserver": lambda process: _is_of_the_forkserver(process) and not _is_bundle(process),
    "bundle": _is_bundle,
    "tracker": lambda process: "orchestrator.tracking.process" in _command(process),
    "agent": lambda process: _command(process).startswith("ray::AgentActor"),
    "head": lambda process: process.name() in ("raylet", "gcs_server"),
}
