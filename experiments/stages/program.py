"""The process that a stage runs in, alone or as one of many: the time that it computed, and whose checkpoint is due."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from experiments.channel import Channel

CHECKPOINT_LEAST_S = 2.0
CHECKPOINT_COSTS = 200.0
"""A process writes its next periodic checkpoint this many times the last one's cost after it: they take half a percent
of its time at most, however many stages share it. No stage writes one more often than every `CHECKPOINT_LEAST_S`."""


class Program:
    """Stages join it when they are set up, by name, and leave it at their end.

    busy_s: time spent computing so far [s]. phase_wait_s: time spent waiting for others on its device to be done with a
    phase [s], which is not computing. most_members: the most stages that it has had at once.
    """

    def __init__(self) -> None:
        self.busy_s = 0.0
        self.phase_wait_s = 0.0
        self.most_members = 0
        self._oldest_first: dict[str, None] = {}
        self._checkpoint_s = 0.0
        self._checkpointed_at = time.perf_counter()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Counts the time inside as computing."""
        started = time.perf_counter()
        yield
        self.busy_s += time.perf_counter() - started

    @contextmanager
    def phase(self, channel: Channel, name: str) -> Iterator[None]:
        """One phase of a step: waits for its turn, then counts the time inside as computing."""
        asked = time.perf_counter()
        with channel.phase(name):
            self.phase_wait_s += time.perf_counter() - asked
            with self.busy():
                yield

    def join(self, name: str) -> None:
        """A stage begins; whoever is there has waited longer for a checkpoint."""
        if not self._oldest_first:
            self._checkpointed_at = time.perf_counter()
        self._oldest_first[name] = None
        self.most_members = max(self.most_members, len(self._oldest_first))

    def leave(self, name: str) -> None:
        """A stage has ended, or has not begun."""
        self._oldest_first.pop(name, None)

    def checkpoint_due(self, name: str) -> bool:
        """Whether a periodic checkpoint is due, and it is the turn of this stage."""
        if next(iter(self._oldest_first)) != name:
            return False
        wait_s = max(CHECKPOINT_LEAST_S / len(self._oldest_first), CHECKPOINT_COSTS * self._checkpoint_s)
        return time.perf_counter() - self._checkpointed_at >= wait_s

    @contextmanager
    def checkpointing(self, name: str) -> Iterator[None]:
        """Around the writing of a stage's checkpoint, periodic or not: its cost says when the next one is due."""
        started = time.perf_counter()
        yield
        self._checkpointed_at = time.perf_counter()
        self._checkpoint_s = self._checkpointed_at - started
        self._oldest_first[name] = self._oldest_first.pop(name)
