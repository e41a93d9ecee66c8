"""Records -> statements: all of a kind at once, since a statement for many rows costs a fraction of many statements.

The kinds are written in an order in which nothing refers to what isn't there yet; records of one kind keep theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Connection, Table, bindparam, delete, insert, update
from sqlalchemy.dialects import postgresql, sqlite

from orchestrator.events import (
    Record,
    RecordAllocation,
    RecordAnswer,
    RecordDevices,
    RecordMeasured,
    RecordPredictions,
    RecordStage,
    RecordStudy,
    RecordTrial,
)
from orchestrator.schema import Device, TrialState
from orchestrator.store import tables
from orchestrator.store.documents import DocumentWriter
from orchestrator.store.entries import journal_entries
from orchestrator.store.rows import Row, row_of, trial_fields

Rows = Sequence[Row]


class Misfit(Exception):
    """A statement changed fewer rows than it was given: a record doesn't fit what the database holds."""


@dataclass(slots=True)
class Batch:
    """What is to be written, by statement. Made before the transaction begins: encoding takes longer than writing."""

    documents: DocumentWriter = field(default_factory=DocumentWriter)
    studies: list[Row] = field(default_factory=list)
    new_trials: list[Row] = field(default_factory=list)
    trials: list[Row] = field(default_factory=list)
    variants: list[Row] = field(default_factory=list)
    stages: list[Row] = field(default_factory=list)
    opened: list[Row] = field(default_factory=list)
    measured: list[Row] = field(default_factory=list)
    closed: list[Row] = field(default_factory=list)
    devices: tuple[Device, ...] | None = None
    answers: list[Row] = field(default_factory=list)
    predictions: list[Row] = field(default_factory=list)
    journal: list[Row] = field(default_factory=list)


def batch_of(records: Sequence[Record]) -> Batch:
    """The records, encoded."""
    batch = Batch()
    for record in _without_overtaken(records):
        match record:
            case RecordStudy():
                batch.studies.append(row_of(record.study))
            case RecordTrial():
                _add_trial(batch, record)
            case RecordStage():
                batch.stages.append(_stage_row(record))
            case RecordAllocation():
                _add_line(batch, row_of(record.allocation))
            case RecordMeasured():
                batch.measured.append({"key": record.bundle_id, **row_of(record, "bundle_id")})
            case RecordDevices():
                batch.devices = record.devices
            case RecordAnswer():
                answer = {"answered_at": record.at, "ok": record.ok, "answer": record.answer}
                batch.answers.append({"key": record.command_id, **answer})
            case RecordPredictions():
                batch.predictions += [row_of(prediction) for prediction in record.predictions]
    batch.journal = [row_of(entry, "sequence") for entry in journal_entries(records)]
    return batch


def _without_overtaken(records: Sequence[Record]) -> list[Record]:
    """Progress of a trial that a later record of the same call, expecting the same state, writes over."""
    kept: list[Record] = []
    later: dict[str, TrialState | None] = {}
    for record in reversed(records):
        if isinstance(record, RecordTrial):
            trial_id = record.trial.trial_id
            progress_only = record.was is record.trial.state and not record.track and not record.new_variant
            if progress_only and later.get(trial_id) is record.was:
                continue
            later[trial_id] = record.was
        kept.append(record)
    return kept[::-1]


def _add_trial(batch: Batch, record: RecordTrial) -> None:
    trial = record.trial
    row = trial_fields(trial)
    if record.was is None:
        ids = {"trial_id": trial.trial_id, "study_id": trial.study_id}
        batch.new_trials.append({**row, **ids, "variant": batch.documents.add(trial.variant)})
        return
    batch.trials.append({**row, "key": trial.trial_id, "was": record.was})
    if record.new_variant:
        batch.variants.append({"key": trial.trial_id, "variant": batch.documents.add(trial.variant)})


def _add_line(batch: Batch, row: Row) -> None:
    if row["closed_at"] is None:
        batch.opened.append(row)
    else:
        batch.closed.append({"key": row.pop("bundle_id"), **row})


def _stage_row(record: RecordStage) -> Row:
    return {
        "stage_key": record.stage.key,
        "name": record.stage.name,
        "parent_key": record.stage.parent_key,
        "state": record.state,
        "outcome": row_of(record.outcome),
    }


def write(connection: Connection, batch: Batch) -> None:
    """Raises Misfit or IntegrityError; the transaction is to be rolled back then."""
    add_missing(connection, tables.documents, document_rows(batch.documents))
    _upsert(connection, tables.studies, batch.studies)
    _insert(connection, tables.trials, batch.new_trials)
    _change(connection, tables.trials, batch.trials, tables.trials.c.state == bindparam("was"))
    _change(connection, tables.trials, batch.variants)
    _upsert(connection, tables.stages, batch.stages)
    _insert(connection, tables.allocations, batch.opened)
    # What was measured of a line, and then its end, each on a line that is open.
    for changed in (batch.measured, batch.closed):
        _change(connection, tables.allocations, changed, tables.allocations.c.closed_at.is_(None))
    if batch.devices is not None:
        connection.execute(delete(tables.devices))
        _insert(connection, tables.devices, [row_of(device) for device in batch.devices])
    _change(connection, tables.commands, batch.answers, tables.commands.c.answered_at.is_(None))
    add_missing(connection, tables.predictions, batch.predictions)
    # Numbers follow the order of commits: the leader alone appends, under the lock on its lease.
    _insert(connection, tables.journal, batch.journal)


def document_rows(documents: DocumentWriter) -> Rows:
    """By digest: two writers that add the same ones in another order would wait for each other."""
    return [{"digest": digest, "body": body} for digest, body in sorted(documents.bodies.items())]


def add_missing(connection: Connection, table: Table, new: Rows) -> None:
    """Insert the rows whose key isn't there yet."""
    if new:
        statement = _dialect_insert(connection, table).on_conflict_do_nothing(index_elements=list(table.primary_key))
        connection.execute(statement, new)


def _insert(connection: Connection, table: Table, new: Rows) -> None:
    if new:
        connection.execute(insert(table), new)


def _upsert(connection: Connection, table: Table, changed: Rows) -> None:
    if not changed:
        return
    statement = _dialect_insert(connection, table)
    keys = [column.name for column in table.primary_key]
    values = {column.name: statement.excluded[column.name] for column in table.c if column.name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=values), changed)


def _change(connection: Connection, table: Table, changed: Rows, *conditions: ColumnElement[bool]) -> None:
    """Each row changes the one whose primary key is its `key`, under the conditions. Raises Misfit if one doesn't."""
    if not changed:
        return
    (key,) = table.primary_key
    result = connection.execute(update(table).where(key == bindparam("key"), *conditions), changed)
    if result.rowcount != len(changed):
        raise Misfit(table.name)


def _dialect_insert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """The two databases spell an upsert alike, but SQLAlchemy has no word for both."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)
