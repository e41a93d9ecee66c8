"""What an agent knows of a process that its forkserver made for it."""

import signal
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Process:
    """`status` is as `os.waitstatus_to_exitcode` gives it, None while it runs (or when nobody can know: then `vanished`
    says why); `killed` says that we ended it."""

    pid: int | None = None
    ended: bool = False
    status: int | None = None
    killed: bool = False
    vanished: str = ""

    def exited(self, status: int, killed: bool) -> None:
        """It was reaped; everything it said came before."""
        self.ended, self.status, self.killed = True, status, killed

    def is_gone(self, reason: str) -> None:
        """It is gone and nobody can tell its status."""
        self.ended, self.vanished = True, reason

    def describe_loss(self, name: str) -> str:
        """How it ended without an answer, for a human who knows it by `name`."""
        who = f"{name} (pid {self.pid})"
        if self.vanished:
            return f"{who} was lost: {self.vanished}"
        if self.status is not None and self.status < 0:
            return f"{who} was killed by {_signal_name(-self.status)}"
        return f"{who} exited with status {self.status} without an answer"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
