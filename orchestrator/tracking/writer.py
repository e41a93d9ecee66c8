"""The buffered writer: callers hand records over and go on, one thread writes them out in order.

It guarantees:

- `put` appends to a list under a lock and returns; it does no I/O and imports nothing.
- Records of one run are written in the order they were put. Points of a series are gathered per run and written in one
  batch; only records of different runs change places, which no reader can see.
- While the server is away nothing is lost: the record at the head is retried with growing pauses and the rest wait in
  memory. That the server went away, and that it is back, is logged once each.
- A record that the server refuses (it would refuse it for ever), or that keeps failing although the server answers, is
  dropped and the first such refusal is logged: one bad record must not hold up a study's worth of good ones.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.schema import Study, Trial

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StudyStarted:
    """Open the study's parent run."""

    study: Study


@dataclass(frozen=True, slots=True)
class TrialChanged:
    """Bring the trial's run to its present state, opening it if it has none."""

    trial: Trial


@dataclass(frozen=True, slots=True)
class Point:
    """Values of one step of a trial's series; `at` in seconds since the epoch."""

    trial_id: str
    step: int
    metrics: Mapping[str, float]
    at: float


@dataclass(frozen=True, slots=True)
class StudyFinished:
    """Log the study's numbers and files on its parent run and end it."""

    study: Study
    metrics: Mapping[str, float]
    artifacts: tuple[Path, ...]


TrackingRecord = StudyStarted | TrialChanged | Point | StudyFinished


class Sink(Protocol):
    """Where the writer's thread writes. Calls may block and raise, and must bear being repeated after a failure."""

    def connect(self) -> None:
        """Import and open whatever the first write would wait for."""

    def study_started(self, record: StudyStarted) -> None: ...

    def trial_changed(self, record: TrialChanged) -> None: ...

    def points(self, trial_id: str, points: Sequence[Point]) -> None:
        """Points of one trial, in order."""

    def study_finished(self, record: StudyFinished) -> None: ...

    def refused(self, error: Exception) -> bool:
        """Whether `error` says that the same record would never be accepted."""

    def answers(self) -> bool:
        """Whether the server can be reached at all right now."""


Write = StudyStarted | TrialChanged | StudyFinished | tuple[Point, ...]


def batched(records: Iterable[TrackingRecord]) -> Iterator[Write]:
    """Records with the points of each trial gathered into one batch, ahead of that trial's next change of state."""
    waiting: dict[str, list[Point]] = {}
    for record in records:
        match record:
            case Point(trial_id=trial_id):
                waiting.setdefault(trial_id, []).append(record)
            case TrialChanged(trial=trial):
                if trial.trial_id in waiting:
                    yield tuple(waiting.pop(trial.trial_id))
                yield record
            case StudyStarted() | StudyFinished():
                yield from (tuple(points) for points in waiting.values())
                waiting.clear()
                yield record
    yield from (tuple(points) for points in waiting.values())


class BufferedWriter:
    """Writes records to `sink` from one daemon thread.

    linger_s: how long the first record of a batch waits for company [s]. first_backoff_s, max_backoff_s: the pauses
    between attempts [s], doubled each time. max_attempts: how often a record may fail while the server answers.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        linger_s: float = 1.0,
        first_backoff_s: float = 0.2,
        max_backoff_s: float = 5.0,
        max_attempts: int = 6,
    ) -> None:
        self._sink = sink
        self._linger_s = linger_s
        self._first_backoff_s = first_backoff_s
        self._max_backoff_s = max_backoff_s
        self._max_attempts = max_attempts
        self._records: list[TrackingRecord] = []
        self._lock = threading.Condition()
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._thread: threading.Thread | None = None
        self._unwritten = 0
        self._away = False
        self._away_since = 0.0
        self._dropped = 0

    def start(self) -> None:
        """Start the thread, which connects at once: slow imports then pass while the caller does other things."""
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name="tracking-writer", daemon=True)
                self._thread.start()

    def put(self, record: TrackingRecord) -> None:
        """Hand a record over. After `close` records are dropped with a warning, since no one would write them."""
        self.start()
        with self._lock:
            if self._closing.is_set():
                logger.warning("tracking: the writer is closed; %s is dropped", type(record).__name__)
                return
            self._records.append(record)
            self._unwritten += 1
            self._lock.notify()

    def close(self, timeout_s: float) -> bool:
        """Write out what is buffered and end the thread. False if that took more than `timeout_s`. Safe to repeat."""
        with self._lock:
            self._closing.set()
            self._lock.notify()
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        finished = not self._thread.is_alive() and not self._abandoned.is_set()
        if not finished and not self._abandoned.is_set():
            self._abandoned.set()
            logger.warning("tracking: %d records were not written within %g s", self._unwritten, timeout_s)
        if self._dropped:
            logger.warning("tracking: %d writes were refused and dropped", self._dropped)
            self._dropped = 0
        return finished

    def _run(self) -> None:
        self._attempt(self._sink.connect)
        while True:
            records = self._take()
            if not records:
                return
            for write in batched(records):
                self._attempt(lambda write=write: self._write(write))  # type: ignore[misc]
                if self._abandoned.is_set():
                    return
                self._unwritten -= len(write) if isinstance(write, tuple) else 1

    def _take(self) -> list[TrackingRecord]:
        """All records there are, once the first has waited for company; empty when closed and written out."""
        with self._lock:
            self._lock.wait_for(lambda: self._records or self._closing.is_set())
        self._closing.wait(self._linger_s)
        with self._lock:
            taken, self._records = self._records, []
            return taken

    def _write(self, write: Write) -> None:
        match write:
            case StudyStarted():
                self._sink.study_started(write)
            case TrialChanged():
                self._sink.trial_changed(write)
            case StudyFinished():
                self._sink.study_finished(write)
            case _:
                self._sink.points(write[0].trial_id, write)

    def _attempt(self, call: Callable[[], None]) -> None:
        """Call until it succeeds, is refused, fails `max_attempts` times with the server there, or is abandoned."""
        failures = 0
        backoff_s = self._first_backoff_s
        while not self._abandoned.is_set():
            try:
                call()
            # Any error a backend can raise is tolerated here: tracking must never end a study.
            except Exception as error:
                if self._sink.refused(error):
                    self._drop(error)
                    return
                if self._sink.answers():
                    failures += 1
                    if failures >= self._max_attempts:
                        self._drop(error)
                        return
                else:
                    self._say_away(error)
                self._abandoned.wait(backoff_s)
                backoff_s = min(2 * backoff_s, self._max_backoff_s)
            else:
                self._say_back()
                return

    def _drop(self, error: Exception) -> None:
        if self._dropped == 0:
            logger.warning("tracking: a record was refused and dropped: %s", _first_line(error))
        self._dropped += 1

    def _say_away(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            self._away_since = time.monotonic()
            logger.warning("tracking: %s; training goes on, records wait until it answers", _first_line(error))

    def _say_back(self) -> None:
        if self._away:
            self._away = False
            logger.warning("tracking: answering again after %.0f s", time.monotonic() - self._away_since)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
