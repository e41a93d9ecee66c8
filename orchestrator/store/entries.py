"""What records add to the journal."""

from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.events import Record, RecordPoint, RecordStudy, RecordTrial
from orchestrator.schema import JournalEntry, JournalKind
from orchestrator.store.rows import trial_fields


def journal_entries(records: Sequence[Record]) -> Iterator[JournalEntry]:
    """The entries, without their numbers (0), in the order of the records."""
    for record in records:
        match record:
            case RecordStudy():
                yield _study_entry(record)
            case RecordTrial(track=True):
                yield _trial_entry(record)
            case RecordPoint():
                payload = {"step": record.step, "metrics": dict(record.metrics)}
                yield _entry(JournalKind.POINT, record.at, record.study_id, record.trial_id, payload)


def _study_entry(record: RecordStudy) -> JournalEntry:
    study, finished = record.study, record.finished
    at = record.at
    if at is None:
        at = study.submitted_at if study.ended_at is None else study.ended_at
    if finished is None:
        return _entry(JournalKind.STUDY, at, study.study_id, "", {})
    payload = {"metrics": dict(finished.metrics), "artifacts": list(finished.artifacts)}
    return _entry(JournalKind.FINISHED, at, study.study_id, "", payload)


def _trial_entry(record: RecordTrial) -> JournalEntry:
    trial = record.trial
    payload = trial_fields(trial) | {"was": record.was.value if record.was else "", "why": record.why}
    return _entry(JournalKind.TRIAL, record.at, trial.study_id, trial.trial_id, payload)


def _entry(kind: JournalKind, at: float, study_id: str, trial_id: str, payload: dict[str, Any]) -> JournalEntry:
    return JournalEntry(sequence=0, at=at, kind=kind, study_id=study_id, trial_id=trial_id, payload=payload)
