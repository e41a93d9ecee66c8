"""What a running stage may say to, and hear from, whoever launched it.

A stage's entrypoint is `run(assignment: Assignment, channel: Channel) -> Outcome`.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from orchestrator.schema import Assignment, Outcome


class Channel(Protocol):
    """All calls are cheap enough for every step: reports are buffered, requests are read without waiting."""

    def report(self, step: int, metrics: Mapping[str, float], progress: float) -> None:
        """Series values at `step` (names such as `train/loss`, `eval/accuracy`); `progress` is 0 to 1."""

    def saved(self, step: int) -> None:
        """A checkpoint of `step` is written, whole: what comes after it would be lost with this process."""

    def measured(self, memory_bytes: int, host_memory_bytes: int, utilisation: float | None) -> None:
        """The most memory that this process has had of its device and of the host, and the part of the time in which it
        kept its share of the device busy (None: unknown). Every process of a gang says its own."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Around what a step does of one kind: `rollout`, `learn`. Where programs on a device take turns, it waits
        until nobody else there is in that phase. Never one inside another."""

    def stop_requested(self) -> bool:
        """True once the stage should checkpoint and return `Outcome(finished=False)` at this step boundary."""


class Stack(Protocol):
    """What a program that trains many stages at once hears of its members, and says of them. A member is an assignment
    with a channel of its own; its bundle's id is its name.

    A fused entrypoint is `run(stack: Stack) -> None`. It returns once nobody is left and nobody has come for a while;
    who has been given to it and was never handed out by `arrivals` is then given to another program.
    """

    def arrivals(self, timeout_s: float = 0.0) -> Sequence[tuple[Assignment, Channel]]:
        """Who has joined since the last call, the first that did first; waits at most so long for the first one [s].
        A member has started once it is handed out here."""

    def ended(self, bundle_id: str, outcome: Outcome) -> None:
        """A member has left: paused at a checkpoint, or finished. Then its output is committed, beside whatever the
        program goes on with; a member whose output can't be fails, alone."""

    def failed(self, bundle_id: str, error: Exception) -> None:
        """A member can't be set up or go on; the others can."""
