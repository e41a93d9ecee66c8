import logging
import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.tracking.writer import (
    BufferedWriter,
    Point,
    StudyFinished,
    StudyStarted,
    TrackingRecord,
    TrialChanged,
    batched,
)
from tests.unit.orchestrator.builders import study, warm_started

FIRST, SECOND = warm_started(2)


class Refused(Exception):
    """The sink would never take it."""


class RecordingSink:
    """Keeps what it is given; `failures` are raised first, one per write. `gate` holds the thread until it is set."""

    def __init__(self, *failures: Exception, reachable: bool = True) -> None:
        self.failures = list(failures)
        self.reachable = reachable
        self.written: list[object] = []
        self.gate = threading.Event()
        self.gate.set()
        self.threads: set[str] = set()

    def _take(self, record: object) -> None:
        self.gate.wait(10)
        self.threads.add(threading.current_thread().name)
        if self.failures:
            raise self.failures.pop(0)
        self.written.append(record)

    def connect(self) -> None:
        self.gate.wait(10)

    def study_started(self, record: StudyStarted) -> None:
        self._take(record)

    def trial_changed(self, record: TrialChanged) -> None:
        self._take(record)

    def points(self, trial_id: str, points: Sequence[Point]) -> None:
        self._take(tuple(points))

    def study_finished(self, record: StudyFinished) -> None:
        self._take(record)

    def refused(self, error: Exception) -> bool:
        return isinstance(error, Refused)

    def answers(self) -> bool:
        return self.reachable


def point(trial_id: str, step: int) -> Point:
    return Point(trial_id, step, {"train/loss": 1.0}, float(step))


def writer_on(sink: RecordingSink, **changes: float) -> BufferedWriter:
    return BufferedWriter(sink, linger_s=0.0, first_backoff_s=0.01, max_backoff_s=0.02, **changes)


def test_points_of_a_trial_are_one_batch_ahead_of_its_next_state() -> None:
    a, b = FIRST.trial_id, SECOND.trial_id
    records = [point(a, 0), point(b, 0), point(a, 1), TrialChanged(FIRST), point(a, 2)]
    assert list(batched(records)) == [
        (point(a, 0), point(a, 1)),
        TrialChanged(FIRST),
        (point(b, 0),),
        (point(a, 2),),
    ]


RECORDS = st.lists(
    st.one_of(
        st.builds(point, st.sampled_from([FIRST.trial_id, SECOND.trial_id]), st.integers(0, 9)),
        st.sampled_from([TrialChanged(FIRST), TrialChanged(SECOND)]),
        st.just(StudyFinished(study(), {}, ())),
    ),
    max_size=30,
)


@given(RECORDS)
def test_batching_keeps_every_record_and_the_order_within_a_run(records: list[TrackingRecord]) -> None:
    flat: list[TrackingRecord] = []
    for write in batched(records):
        flat.extend(write if isinstance(write, tuple) else [write])
    for trial in (FIRST, SECOND):

        def own(record: TrackingRecord, trial_id: str = trial.trial_id) -> bool:
            match record:
                case Point(trial_id=owner):
                    return owner == trial_id
                case TrialChanged(trial=changed):
                    return changed.trial_id == trial_id
                case _:
                    return True

        assert [r for r in flat if own(r)] == [r for r in records if own(r)]


def test_records_are_written_in_order_by_a_thread_of_its_own() -> None:
    sink = RecordingSink()
    writer = writer_on(sink)
    records = [StudyStarted(study()), TrialChanged(FIRST), TrialChanged(SECOND), StudyFinished(study(), {}, ())]
    for record in records:
        writer.put(record)
    assert writer.close(10)
    assert sink.written == records
    assert sink.threads == {"tracking-writer"}


def test_put_does_not_wait_for_a_sink_that_hangs() -> None:
    sink = RecordingSink()
    sink.gate.clear()
    writer = writer_on(sink)
    began = time.perf_counter()
    for step in range(1000):
        writer.put(point("t", step))
    assert time.perf_counter() - began < 0.5
    sink.gate.set()
    assert writer.close(10)
    assert sum(len(batch) for batch in sink.written) == 1000


def test_a_server_that_goes_away_is_said_once_and_costs_no_record(caplog: pytest.LogCaptureFixture) -> None:
    sink = RecordingSink(*[ConnectionError("refused")] * 20, reachable=False)
    writer = writer_on(sink)
    with caplog.at_level(logging.WARNING):
        writer.put(TrialChanged(FIRST))
        writer.put(TrialChanged(SECOND))
        assert writer.close(10)
    assert sink.written == [TrialChanged(FIRST), TrialChanged(SECOND)]
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "tracking: refused",
        "tracking: answering again after 0 s",
    ]


def test_a_refused_record_is_dropped_at_once_and_the_rest_is_written(caplog: pytest.LogCaptureFixture) -> None:
    sink = RecordingSink(Refused("bad name"))
    writer = writer_on(sink)
    with caplog.at_level(logging.WARNING):
        writer.put(TrialChanged(FIRST))
        writer.put(TrialChanged(SECOND))
        assert writer.close(10)
    assert sink.written == [TrialChanged(SECOND)]
    assert "bad name" in caplog.text


def test_a_record_that_keeps_failing_on_a_server_that_answers_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    sink = RecordingSink(*[RuntimeError("bug")] * 3)
    writer = writer_on(sink, max_attempts=3)
    with caplog.at_level(logging.WARNING):
        writer.put(TrialChanged(FIRST))
        writer.put(TrialChanged(SECOND))
        assert writer.close(10)
    assert sink.written == [TrialChanged(SECOND)]


def test_close_gives_up_after_its_timeout_and_says_how_much_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    sink = RecordingSink(*[ConnectionError("refused")] * 10_000, reachable=False)
    writer = writer_on(sink)
    with caplog.at_level(logging.WARNING):
        writer.put(TrialChanged(FIRST))
        began = time.perf_counter()
        assert not writer.close(0.2)
        assert time.perf_counter() - began < 1.0
        assert not writer.close(0.2)
    assert "1 records were not written" in caplog.text


def test_a_record_after_close_is_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    sink = RecordingSink()
    writer = writer_on(sink)
    assert writer.close(1)
    with caplog.at_level(logging.WARNING):
        writer.put(TrialChanged(FIRST))
    assert sink.written == []
    assert "dropped" in caplog.text
