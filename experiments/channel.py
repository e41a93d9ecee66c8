"""What a running stage may say to, and hear from, whoever launched it.

A stage's entrypoint is `run(assignment: Assignment, channel: Channel) -> Outcome`.
"""

from collections.abc import Mapping
from typing import Protocol


class Channel(Protocol):
    """All calls are cheap enough for every step: reports are buffered, requests are read without waiting."""

    def report(self, step: int, metrics: Mapping[str, float], progress: float) -> None:
        """Series values at `step` (names such as `train/loss`, `eval/accuracy`); `progress` is 0 to 1."""

    def saved(self, step: int) -> None:
        """A checkpoint of `step` is written, whole: what comes after it would be lost with this process."""

    def measured(self, memory_bytes: int, host_memory_bytes: int, utilisation: float | None) -> None:
        """The most memory that this process has had of its device and of the host, and the part of the time in which it
        kept its share of the device busy (None: unknown). Every process of a gang says its own."""

    def stop_requested(self) -> bool:
        """True once the stage should checkpoint and return `Outcome(finished=False)` at this step boundary."""
