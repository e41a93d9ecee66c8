import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.events import Record, RecordStudy
from orchestrator.ports import Store, StoreUnavailable
from orchestrator.schema import NO_CHARGE, Charge, JournalEntry, JournalKind, Study, Trial, TrialState
from orchestrator.store.database import DatabaseStore
from orchestrator.store.memory import MemoryStore
from orchestrator.tracking import forwarder as module
from orchestrator.tracking.forwarder import Forwarder, batched, forward_all
from orchestrator.tracking.memory import MemoryTracker
from tests.unit.orchestrator.builders import study, warm_started
from tests.unit.orchestrator.tracking.journals import AT, changed, finished, life, point, write_life


class Refused(Exception):
    """The backend would never take it."""


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


class FaultyTracker(MemoryTracker):
    """A tracker whose backend misbehaves: `before` may raise ahead of a call, `after` once it took effect."""

    def __init__(self) -> None:
        super().__init__()
        self.reachable = True
        self.calls: list[tuple[str, str, int]] = []
        self.before: Callable[[str, str], None] = lambda name, owner: None
        self.after: Callable[[str, str], None] = lambda name, owner: None

    def study_started(self, study: Study) -> None:
        self._around("study", study.study_id, 1, lambda: super(FaultyTracker, self).study_started(study))

    def trial_changed(self, study: Study, trial: Trial, charge: Charge = NO_CHARGE) -> None:
        call = lambda: super(FaultyTracker, self).trial_changed(study, trial, charge)  # noqa: E731
        self._around(str(trial.state), trial.trial_id, 1, call)

    def points(self, study: Study, trial_id: str, points: Sequence[JournalEntry]) -> None:
        call = lambda: super(FaultyTracker, self).points(study, trial_id, points)  # noqa: E731
        self._around("points", trial_id, len(points), call)

    def study_finished(self, study: Study, metrics: Mapping[str, float], artifacts: Sequence[Path]) -> None:
        call = lambda: super(FaultyTracker, self).study_finished(study, metrics, artifacts)  # noqa: E731
        self._around("finished", study.study_id, 1, call)

    def refused(self, error: Exception) -> bool:
        return isinstance(error, Refused) or super().refused(error)

    def answers(self) -> bool:
        return self.reachable

    def _around(self, name: str, owner: str, count: int, call: Callable[[], None]) -> None:
        self.before(name, owner)
        call()
        self.calls.append((name, owner, count))
        self.after(name, owner)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = MemoryStore() if request.param == "memory" else DatabaseStore(f"sqlite:///{tmp_path}/store.db")
    yield made
    made.close()


def quick(store: Store, tracker: MemoryTracker, **changes: object) -> Forwarder:
    return Forwarder(store, tracker, first_backoff_s=0.001, max_backoff_s=0.002, **changes)


def forward_all_with(forwarder: Forwarder) -> None:
    while forwarder.forward_once():
        pass


def reference() -> dict[str, object]:
    """What a tracker shows that was told everything by one undisturbed forwarder."""
    store, tracker = MemoryStore(), MemoryTracker()
    write_life(store)
    forward_all(store, tracker)
    return tracker.runs


FIRST, SECOND = warm_started(2)


def test_the_journal_arrives_and_the_cursor_is_at_its_end(store: Store) -> None:
    first, _ = write_life(store)
    tracker = MemoryTracker()
    forwarder = quick(store, tracker)
    assert forwarder.forward_once() == store.journal_end() == 18
    assert forwarder.forward_once() == 0
    assert store.forwarded() == 18
    run = tracker.runs[first.trial_id]
    assert [(p.step, p.at) for p in run.series["train/loss"]] == [(n, AT + n) for n in range(5)]
    assert (run.status, run.metrics["accuracy"], run.ended_at) == ("FINISHED", 0.5, AT + 60)
    parent = tracker.runs["study-1"]
    assert (parent.status, parent.ended_at, parent.metrics) == ("FINISHED", AT + 5, {"experiments_decided": 2.0})


def test_a_trial_is_told_as_it_was_and_not_as_it_is_by_now(store: Store) -> None:
    write_life(store, trials=1)
    tracker = FaultyTracker()
    quick(store, tracker).forward_once()
    names = [name for name, _, _ in tracker.calls]
    assert names == ["study", "queued", "running", "points", "completed", "finished"]


def test_points_of_a_trial_go_in_one_call(store: Store) -> None:
    write_life(store, trials=2, points=5)
    tracker = FaultyTracker()
    quick(store, tracker).forward_once()
    assert [count for name, _, count in tracker.calls if name == "points"] == [5, 5]


def test_a_limit_is_kept_and_the_rest_follows(store: Store) -> None:
    write_life(store)
    forwarder = quick(store, MemoryTracker(), limit=10)
    assert [forwarder.forward_once() for _ in range(3)] == [10, 8, 0]


@pytest.mark.parametrize("died_at", range(14))
def test_a_forwarder_that_dies_between_a_call_and_the_cursor_leaves_everything_once(
    died_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ADVANCE_EVERY", 4)
    store, tracker = MemoryStore(), FaultyTracker()
    write_life(store)

    def die(name: str, owner: str) -> None:
        if len(tracker.calls) == died_at + 1:
            raise Killed

    tracker.after = die
    with pytest.raises(Killed):
        forward_all(store, tracker)
    assert store.forwarded() < store.journal_end()
    forward_all(store, tracker)
    assert tracker.runs == reference()


def test_a_kill_repeats_no_more_than_the_cursor_lags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ADVANCE_EVERY", 4)
    store, tracker = MemoryStore(), FaultyTracker()
    write_life(store)

    def die(name: str, owner: str) -> None:
        if name == "completed":
            raise Killed

    tracker.before = die
    with pytest.raises(Killed):
        quick(store, tracker).forward_once()
    assert store.forwarded() == 12


def test_a_tracker_that_goes_away_is_said_once_and_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    store, tracker = MemoryStore(), FaultyTracker()
    write_life(store)
    failures = iter(range(30))

    def fail(name: str, owner: str) -> None:
        tracker.reachable = next(failures, None) is None
        if not tracker.reachable:
            raise ConnectionError("http://me:hunter2@host refused")

    tracker.before = fail
    with caplog.at_level(logging.WARNING):
        forward_all_with(quick(store, tracker))
    assert tracker.runs == reference()
    assert [record.message for record in caplog.records] == [
        "tracking: http://me:***@host refused; training goes on, records wait until it answers",
        "tracking: answering again after 0 s",
    ]


def test_an_error_while_the_backend_is_away_says_nothing_about_the_record() -> None:
    store, tracker = MemoryStore(), FaultyTracker()
    write_life(store)
    failures = iter(range(3))

    def fail(name: str, owner: str) -> None:
        tracker.reachable = next(failures, None) is None
        if not tracker.reachable:
            raise Refused("404 of a proxy")

    tracker.before = fail
    forward_all_with(quick(store, tracker))
    assert tracker.runs == reference()


def test_a_refused_record_is_dropped_at_once_and_the_rest_arrives(caplog: pytest.LogCaptureFixture) -> None:
    store, tracker = MemoryStore(), FaultyTracker()
    write_life(store)
    attempts = []

    def fail(name: str, owner: str) -> None:
        if (name, owner) == ("running", FIRST.trial_id):
            attempts.append(name)
            raise Refused("bad name")

    tracker.before = fail
    with caplog.at_level(logging.WARNING):
        forward_all_with(quick(store, tracker))
    assert len(attempts) == 1
    assert tracker.runs == reference()
    assert [record.message for record in caplog.records] == ["tracking: 1 records refused and dropped so far: bad name"]


def test_of_many_points_only_those_at_fault_are_dropped() -> None:
    class Picky(FaultyTracker):
        def points(self, study: Study, trial_id: str, points: Sequence[JournalEntry]) -> None:
            if any(point.payload["step"] == 3 for point in points):
                raise Refused("step 3")
            super().points(study, trial_id, points)

    store, tracker = MemoryStore(), Picky()
    write_life(store)
    forward_all_with(quick(store, tracker))
    assert [p.step for p in tracker.runs[FIRST.trial_id].series["train/loss"]] == [0, 1, 2, 4]


def test_drops_are_said_once_and_then_by_their_magnitude(caplog: pytest.LogCaptureFixture) -> None:
    store, tracker = MemoryStore(), FaultyTracker()
    write_life(store, trials=1, points=25)

    def fail(name: str, owner: str) -> None:
        if name in ("queued", "points"):
            raise Refused("no")

    tracker.before = fail
    with caplog.at_level(logging.WARNING):
        forward_all_with(quick(store, tracker))
    assert [record.args[0] for record in caplog.records if record.args] == [1, 10]


def test_what_keeps_failing_on_a_backend_that_answers_is_given_up() -> None:
    store, tracker = MemoryStore(), FaultyTracker()
    write_life(store)
    attempts = []

    def fail(name: str, owner: str) -> None:
        if (name, owner) == ("running", FIRST.trial_id):
            attempts.append(name)
            raise RuntimeError("bug")

    tracker.before = fail
    forward_all_with(quick(store, tracker, max_attempts=3))
    assert len(attempts) == 3
    assert tracker.runs == reference()


class StoreThatGoesAway(MemoryStore):
    """Raises before every other call of what a forwarder asks for, `failures` times in all."""

    failures = 0

    def _fail(self) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise StoreUnavailable("database is locked")

    def journal(self, after: int, limit: int, *, trial_id: str = "") -> list[JournalEntry]:
        self._fail()
        return super().journal(after, limit, trial_id=trial_id)

    def trial(self, trial_id: str) -> Trial:
        self._fail()
        return super().trial(trial_id)

    def set_forwarded(self, sequence: int) -> None:
        self._fail()
        super().set_forwarded(sequence)


@pytest.mark.parametrize("call", ["journal", "trial", "set_forwarded"])
def test_a_store_that_goes_away_is_waited_for(call: str, caplog: pytest.LogCaptureFixture) -> None:
    store, tracker = StoreThatGoesAway(), FaultyTracker()
    write_life(store)

    def at(name: str, owner: str) -> None:
        if {"trial": "study", "set_forwarded": "finished"}.get(call) == name:
            store.failures = 5

    tracker.after = at
    store.failures = 5 if call == "journal" else 0
    with caplog.at_level(logging.WARNING):
        forward_all_with(quick(store, tracker))
    assert tracker.runs == reference()
    assert store.forwarded() == 18
    messages = {record.message.split(";")[0] for record in caplog.records}
    assert "tracking, reading the store: database is locked" in messages
    assert "tracking, reading the store: answering again after 0 s" in messages


def test_an_entry_of_a_study_that_is_gone_is_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Forgetful(MemoryStore):
        def study(self, study_id: str) -> Study:
            if study_id == "study-2":
                raise KeyError(study_id)
            return super().study(study_id)

    store, tracker = Forgetful(), MemoryTracker()
    store.apply([RecordStudy(study=study("study-2"))])
    write_life(store)
    with caplog.at_level(logging.WARNING):
        forward_all(store, tracker)
    assert tracker.runs == reference()
    assert "'study-2'" in caplog.text


def test_stop_ends_the_wait_for_a_tracker_that_is_away() -> None:
    store, tracker, stop = MemoryStore(), FaultyTracker(), threading.Event()
    write_life(store)
    tracker.reachable = False

    def fail(name: str, owner: str) -> None:
        raise ConnectionError("refused")

    tracker.before = fail
    forwarder = Forwarder(store, tracker, first_backoff_s=60.0, max_backoff_s=60.0, stop=stop)
    threading.Timer(0.1, stop.set).start()
    began = time.perf_counter()
    assert forwarder.forward_once() == 0
    assert time.perf_counter() - began < 5.0
    assert store.forwarded() == 0


def test_a_reopened_trial_goes_on_in_its_run(store: Store) -> None:
    (first,) = write_life(store, trials=1)
    tracker = MemoryTracker()
    forward_all(store, tracker)
    again = replace(finished(first), state=TrialState.QUEUED, ended_at=None)
    store.apply([RecordStudy(study=replace(study(), submitted_at=AT)), changed(again, TrialState.COMPLETED, "extend")])
    forward_all(store, tracker)
    assert (tracker.runs[first.trial_id].status, tracker.runs["study-1"].status) == ("SCHEDULED", "RUNNING")
    assert tracker.runs[first.trial_id].ended_at is None


TRIALS = st.sampled_from([FIRST, SECOND])
CHANGES = st.lists(
    st.one_of(
        st.builds(point, TRIALS, st.integers(0, 9)),
        TRIALS.map(lambda trial: changed(trial, None)),
        st.just(RecordStudy(study=study())),
    ),
    max_size=30,
)


def entries_of(records: Sequence[Record]) -> list[JournalEntry]:
    """As a store would number them."""
    kinds = {"RecordPoint": JournalKind.POINT, "RecordTrial": JournalKind.TRIAL, "RecordStudy": JournalKind.STUDY}
    owners = [getattr(r, "trial_id", "") or getattr(getattr(r, "trial", None), "trial_id", "") for r in records]
    return [
        JournalEntry(
            sequence=n, at=AT, kind=kinds[type(record).__name__], study_id="study-1", trial_id=owner, payload={}
        )
        for n, (record, owner) in enumerate(zip(records, owners, strict=True), 1)
    ]


@given(CHANGES)
def test_batching_keeps_every_entry_and_the_order_within_a_run(records: list[Record]) -> None:
    entries = entries_of(records)
    flat = [entry for write in batched(entries) for entry in write]
    assert sorted(flat, key=lambda entry: entry.sequence) == entries
    for trial in (FIRST, SECOND):
        own = [entry for entry in entries if entry.trial_id in ("", trial.trial_id)]
        assert [entry for entry in flat if entry.trial_id in ("", trial.trial_id)] == own


def test_a_journal_longer_than_what_is_read_at_once_arrives(store: Store) -> None:
    store.apply(list(life(warm_started(3), 700)))
    tracker = MemoryTracker()
    forward_all(store, tracker)
    assert {len(run.series["train/loss"]) for key, run in tracker.runs.items() if key != "study-1"} == {700}
    assert store.forwarded() == store.journal_end() == 2111
