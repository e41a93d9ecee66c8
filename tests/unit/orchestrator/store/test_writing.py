"""What of some records is written at all."""

from dataclasses import replace

from orchestrator.events import RecordTrial
from orchestrator.schema import TrialState
from orchestrator.store.writing import batch_of
from tests.unit.orchestrator.builders import warm_started

RUNNING = replace(warm_started(1)[0], state=TrialState.RUNNING)


def progress(fraction: float, **changes: object) -> RecordTrial:
    record = RecordTrial(trial=replace(RUNNING, progress=fraction), was=TrialState.RUNNING, at=1.0, track=False)
    return replace(record, **changes)


def written(*records: RecordTrial) -> list[float]:
    return [row["progress"] for row in batch_of(records).trials]


def test_progress_that_a_later_record_writes_over_is_left_out() -> None:
    ended = RecordTrial(trial=replace(RUNNING, state=TrialState.PAUSED, progress=0.75), was=TrialState.RUNNING, at=2.0)
    assert written(progress(0.25), progress(0.5), ended) == [0.75]


def test_progress_before_the_trial_became_something_else_is_no_later_records_business() -> None:
    paused = RecordTrial(trial=replace(RUNNING, state=TrialState.PAUSED, progress=0.5), was=TrialState.RUNNING, at=2.0)
    queued = RecordTrial(trial=replace(RUNNING, state=TrialState.QUEUED, progress=0.6), was=TrialState.PAUSED, at=2.0)
    assert written(paused, queued) == [0.5, 0.6]


def test_what_the_journal_or_the_variants_need_is_never_left_out() -> None:
    assert written(progress(0.25, track=True), progress(0.5, new_variant=True), progress(0.75)) == [0.25, 0.5, 0.75]
