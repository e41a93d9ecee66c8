"""The forwarder: reads the store's journal behind its cursor and tells a tracker, in order.

It guarantees:

- The cursor moves on only once the tracker has taken what lies before it. A forwarder that dies repeats what it had
  told since, at most `ADVANCE_EVERY` entries, and trackers bear being told twice.
- Entries of one trial are told in their order. Points of a series are gathered per trial into one call; only entries of
  different trials change places, which no reader can see.
- While the tracker or the store is away the forwarder waits, with growing pauses. That one went away, and that it is
  back, is logged once each.
- What the tracker refuses (it would refuse it for ever), or what keeps failing although the tracker answers, is dropped
  and logged: one bad entry must not hold up a study's worth of good ones.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

from orchestrator.accounting import Seat, charges, seats
from orchestrator.ports import Store, StoreUnavailable, Tracker
from orchestrator.redaction import redacted_text
from orchestrator.schema import NO_CHARGE, Allocation, Charge, JournalEntry, JournalKind, Study, Trial, TrialState

logger = logging.getLogger(__name__)

T = TypeVar("T")

ADVANCE_EVERY: Final = 500

_TRIAL_FIELDS: Final = frozenset(field.name for field in fields(Trial)) - {"variant", "trial_id", "study_id"}


def forward_all(store: Store, tracker: Tracker) -> None:
    """Tell `tracker` all that the journal holds behind its cursor."""
    forwarder = Forwarder(store, tracker)
    while forwarder.forward_once():
        pass


def batched(entries: Iterable[JournalEntry]) -> Iterator[tuple[JournalEntry, ...]]:
    """One entry each, but for points: those of a trial are gathered, ahead of that trial's next change of state."""
    waiting: dict[str, list[JournalEntry]] = {}
    for entry in entries:
        if entry.kind is JournalKind.POINT:
            waiting.setdefault(entry.trial_id, []).append(entry)
            continue
        if entry.kind is JournalKind.TRIAL:
            if entry.trial_id in waiting:
                yield tuple(waiting.pop(entry.trial_id))
        else:
            yield from (tuple(points) for points in waiting.values())
            waiting.clear()
        yield (entry,)
    yield from (tuple(points) for points in waiting.values())


def trial_as_of(entry: JournalEntry, trial: Trial) -> Trial:
    """The trial as the entry tells it; what entries don't carry (the variant) is as `trial` has it."""
    changed = {name: value for name, value in entry.payload.items() if name in _TRIAL_FIELDS}
    changed["state"] = TrialState(changed.get("state", trial.state))
    changed["reused_stages"] = tuple(changed.get("reused_stages", trial.reused_stages))
    return replace(trial, **changed)


class _Stopped(Exception):
    """Somebody set `stop` while the forwarder waited."""


class _Unknown(Exception):
    """An entry tells of what the store doesn't hold any more."""


class Forwarder:
    """Tells `tracker` the journal of `store`. One at a time may do so.

    limit: how many entries are read at once. first_backoff_s, max_backoff_s: the pauses between attempts [s], doubled
    each time. max_attempts: how often a call may fail while the tracker answers. stop: set by whoever wants
    `forward_once` to return soon, whatever it waits for.
    """

    def __init__(
        self,
        store: Store,
        tracker: Tracker,
        *,
        limit: int = 2000,
        first_backoff_s: float = 0.2,
        max_backoff_s: float = 5.0,
        max_attempts: int = 20,
        stop: threading.Event | None = None,
    ) -> None:
        self._store = store
        self._tracker = tracker
        self._limit = limit
        self._first_backoff_s = first_backoff_s
        self._max_backoff_s = max_backoff_s
        self._max_attempts = max_attempts
        self._stop = stop or threading.Event()
        self._cursor: int | None = None
        self._store_outage = _Outage("tracking, reading the store")
        self._tracker_outage = _Outage("tracking")
        self._dropped = 0

    def forward_once(self) -> int:
        """Forward what lies behind the cursor, at most `limit` entries. How many of them are done with."""
        forwarded = 0
        try:
            if self._cursor is None:
                self._cursor = self._stored(self._store.forwarded)
            cursor = self._cursor
            entries = self._stored(lambda: self._store.journal(cursor, self._limit))
            for start in range(0, len(entries), ADVANCE_EVERY):
                chunk = entries[start : start + ADVANCE_EVERY]
                self._forward(chunk)
                end = chunk[-1].sequence
                self._stored(lambda end=end: self._store.set_forwarded(end))  # type: ignore[misc]
                self._cursor = end
                forwarded += len(chunk)
        except _Stopped:
            pass
        return forwarded

    def _forward(self, entries: Sequence[JournalEntry]) -> None:
        studies: dict[str, _Told] = {}
        for write in batched(entries):
            if self._stop.is_set():
                raise _Stopped
            self._tell_patiently(write, studies)

    def _tell_patiently(self, write: Sequence[JournalEntry], studies: dict[str, "_Told"]) -> None:
        """Tell until it succeeds, is refused, or fails `max_attempts` times with the tracker there."""
        failures = 0
        backoff_s = self._first_backoff_s
        while True:
            try:
                call = self._stored(lambda: self._call_for(write, studies))
                call()
            except _Unknown as error:
                return self._drop(len(write), error)
            except _Stopped:
                raise
            # Any error a backend can raise is tolerated here: tracking must never end a study.
            except Exception as error:
                if not self._tracker.answers():
                    self._tracker_outage.say(error)
                elif self._tracker.refused(error) or (failures := failures + 1) >= self._max_attempts:
                    return self._give_up(write, studies, error)
                backoff_s = self._pause(backoff_s)
            else:
                return self._tracker_outage.over()

    def _give_up(self, write: Sequence[JournalEntry], studies: dict[str, "_Told"], error: Exception) -> None:
        """Drop an entry; of many, find those that are at fault by telling them one by one."""
        if len(write) == 1:
            return self._drop(1, error)
        for entry in write:
            self._tell_patiently((entry,), studies)
        return None

    def _call_for(self, write: Sequence[JournalEntry], studies: dict[str, "_Told"]) -> Callable[[], None]:
        """The tracker's call that `write` asks for. Raises _Unknown, StoreUnavailable."""
        entry = write[0]
        try:
            if entry.study_id not in studies:
                studies[entry.study_id] = _Told(self._store, self._store.study(entry.study_id))
            told = studies[entry.study_id]
            study = told.study
            trial = self._store.trial(entry.trial_id) if entry.kind is JournalKind.TRIAL else None
        except KeyError as error:
            raise _Unknown(f"the store has no study or trial {error} any more") from error
        match entry.kind:
            case JournalKind.STUDY:
                return lambda: self._tracker.study_started(study)
            case JournalKind.FINISHED:
                ended = replace(study, ended_at=entry.at)
                artifacts = [Path(path) for path in entry.payload["artifacts"]]
                return lambda: self._tracker.study_finished(ended, entry.payload["metrics"], artifacts)
            case JournalKind.TRIAL:
                assert trial is not None
                changed = trial_as_of(entry, trial)
                charge = told.charge(trial.trial_id, entry.at) if changed.state.terminal else NO_CHARGE
                return lambda: self._tracker.trial_changed(study, changed, charge)
            case JournalKind.POINT:
                return lambda: self._tracker.points(study, entry.trial_id, write)

    def _stored(self, call: Callable[[], T]) -> T:
        """What the store answers, once it does. Raises _Stopped."""
        backoff_s = self._first_backoff_s
        while True:
            try:
                answer = call()
            except StoreUnavailable as error:
                self._store_outage.say(error)
                backoff_s = self._pause(backoff_s)
            else:
                self._store_outage.over()
                return answer

    def _pause(self, backoff_s: float) -> float:
        """Wait; the next pause [s]. Raises _Stopped."""
        if self._stop.wait(backoff_s):
            raise _Stopped
        return min(2 * backoff_s, self._max_backoff_s)

    def _drop(self, count: int, error: Exception) -> None:
        said = len(str(self._dropped)) if self._dropped else 0
        self._dropped += count
        # The first one, and then whenever their number has gained a digit.
        if len(str(self._dropped)) > said:
            logger.warning("tracking: %d records refused and dropped so far: %s", self._dropped, _first_line(error))


class _Told:
    """A study that some entries are about, and its ledger, read once for all of them: after they were, so that it has
    the lines that were closed with them."""

    def __init__(self, store: Store, study: Study) -> None:
        self.study = study
        self._store = store

    def charge(self, trial_id: str, at: float) -> Charge:
        """What the trial was charged for its part in stacks up to `at`: the same, whenever it is asked."""
        lines = self._of_trial.get(trial_id, ())
        return charges(lines, self._seats, at).get(trial_id, NO_CHARGE)

    @cached_property
    def _lines(self) -> list[Allocation]:
        return self._store.allocations_about(self.study.study_id)

    @cached_property
    def _of_trial(self) -> dict[str, list[Allocation]]:
        found: dict[str, list[Allocation]] = {}
        for line in self._lines:
            for trial_id in line.trial_ids if line.stack_id else ():
                found.setdefault(trial_id, []).append(line)
        return found

    @cached_property
    def _seats(self) -> dict[str, Seat]:
        """Of seats that were left by now; what is open has no charge yet."""
        return seats(self._lines, max((line.closed_at or line.opened_at for line in self._lines), default=0.0))


class _Outage:
    """Says once that something is away, and once that it is back."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._since: float | None = None

    def say(self, error: Exception) -> None:
        if self._since is None:
            self._since = time.monotonic()
            logger.warning("%s: %s; training goes on, records wait until it answers", self._name, _first_line(error))

    def over(self) -> None:
        if self._since is not None:
            logger.warning("%s: answering again after %.0f s", self._name, time.monotonic() - self._since)
            self._since = None


def _first_line(error: Exception) -> str:
    text = redacted_text(str(error).strip())
    return text.splitlines()[0][:300] if text else type(error).__name__
