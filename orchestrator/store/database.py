"""The durable truth on SQLAlchemy: one transaction per call."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Select, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from orchestrator.accounting import about
from orchestrator.events import Record, RecordAllocation, RecordAnswer, RecordMeasured, RecordStudy, RecordTrial
from orchestrator.ports import LeaseLost, TransitionRefused
from orchestrator.schema import (
    Allocation,
    Command,
    Device,
    Holder,
    JournalEntry,
    JournalKind,
    Lease,
    Outcome,
    Prediction,
    StageState,
    Study,
    Token,
    Trial,
    TrialState,
)
from orchestrator.store import tables
from orchestrator.store.documents import DocumentReader, DocumentWriter
from orchestrator.store.engine import chunks, open_engine, rows_among, rows_of, writer
from orchestrator.store.failures import said_as_unavailable
from orchestrator.store.migrate import migrate
from orchestrator.store.misfits import Held, illegal_transition, misfit
from orchestrator.store.rows import (
    Row,
    allocation_of,
    command_of,
    device_of,
    entry_of,
    lease_of,
    row_of,
    study_of,
    token_of,
    trial_of,
)
from orchestrator.store.writing import Misfit, add_missing, batch_of, document_rows, write

# After any time [s since the epoch].
_NEVER = 1e18


class DatabaseStore:
    """A `ports.Store` on an SQLAlchemy URL: `sqlite:///path/to/store.db` or `postgresql+psycopg://user@host/name`.

    Opening it makes or migrates the tables; that raises SQLAlchemy's errors and NewerStore. May be used by several
    threads at once.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url)
        try:
            migrate(self._engine)
        except BaseException:
            self._engine.dispose()
            raise
        self._writer = writer(self._engine)
        self._documents = DocumentReader()
        self._documents_lock = threading.Lock()

    @property
    def engine(self) -> Engine:
        """For inspection in tests."""
        return self._engine

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with said_as_unavailable(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with said_as_unavailable(), self._writer.begin() as connection:
            yield connection

    def _all(self, query: Select[Any]) -> list[Row]:
        with self._reading() as connection:
            return rows_of(connection, query)

    def _one(self, query: Select[Any], key: object) -> Row:
        found = self._all(query)
        if not found:
            raise KeyError(key)
        return found[0]

    # --- the leader's -------------------------------------------------------------------------------------------------

    def apply(self, records: Sequence[Record], *, term: int = 0, batch: int = 0) -> None:
        if refusal := illegal_transition(records):
            raise TransitionRefused(refusal)
        if records or term:
            encoded = batch_of(records)
            with self._refusing(records), self._writing() as connection:
                if not term or _takes_effect(connection, term, batch):
                    write(connection, encoded)

    @contextmanager
    def _refusing(self, records: Sequence[Record]) -> Iterator[None]:
        """Says of a transaction that was rolled back which record didn't fit."""
        try:
            yield
        except (Misfit, IntegrityError) as error:
            refusal = misfit(records, self._held(records))
            if not refusal and not isinstance(error, Misfit):
                raise
            raise TransitionRefused(refusal or f"{error} changed meanwhile") from error

    def _held(self, records: Sequence[Record]) -> Held:
        """What the database holds of what the records are about."""
        trials = [r.trial for r in records if isinstance(r, RecordTrial)]
        lines = [r.allocation for r in records if isinstance(r, RecordAllocation)]
        study_ids = {trial.study_id for trial in trials} | {line.study_id for line in lines}
        trial_ids = {trial.trial_id for trial in trials}
        bundle_ids = {line.bundle_id for line in lines}
        bundle_ids |= {r.bundle_id for r in records if isinstance(r, RecordMeasured)}
        command_ids = {r.command_id for r in records if isinstance(r, RecordAnswer)}
        s, t, a, c = tables.studies.c, tables.trials.c, tables.allocations.c, tables.commands.c
        with self._reading() as connection:
            found = rows_among(connection, select(s.study_id), s.study_id, study_ids)
            states = rows_among(connection, select(t.trial_id, t.state), t.trial_id, trial_ids)
            held = rows_among(connection, select(a.bundle_id, a.closed_at), a.bundle_id, bundle_ids)
            asked = rows_among(connection, select(c.command_id, c.answered_at), c.command_id, command_ids)
        return Held(
            studies={row["study_id"] for row in found},
            trials={row["trial_id"]: TrialState(row["state"]) for row in states},
            lines={row["bundle_id"]: row["closed_at"] is None for row in held},
            commands={row["command_id"]: row["answered_at"] is None for row in asked},
        )

    def lease(self) -> Lease:
        return lease_of(self._all(select(tables.leases))[0])

    def take_lease(self, seen: Lease, holder: Holder, config: Mapping[str, object], at: float) -> Lease | None:
        taken = Lease(term=seen.term + 1, beat=seen.beat + 1, beat_at=at, holder=holder, config=config)
        lease = tables.leases
        statement = update(lease).where(lease.c.term == seen.term, lease.c.beat == seen.beat)
        with self._writing() as connection:
            result = connection.execute(statement.values(**row_of(taken, "holder"), holder=row_of(holder), batch=0))
            return taken if result.rowcount else None

    def renew_lease(self, term: int, at: float) -> None:
        with self._writing() as connection:
            if not _beat(connection, term, at):
                raise LeaseLost(f"term {term} is over")

    def release_lease(self, term: int, at: float) -> None:
        with self._writing() as connection:
            _beat(connection, term, at, holder=None)

    def pending_commands(self) -> list[Command]:
        c = tables.commands.c
        query = select(tables.commands).where(c.answered_at.is_(None)).order_by(c.command_id)
        return [command_of(row) for row in self._all(query)]

    def completed_stages(self, keys: Sequence[str]) -> dict[str, Outcome]:
        c = tables.stages.c
        query = select(c.stage_key, c.outcome).where(c.state == StageState.COMPLETED.value)
        with self._reading() as connection:
            found = rows_among(connection, query, c.stage_key, set(keys))
        return {row["stage_key"]: Outcome(**row["outcome"]) for row in found}

    # --- anybody's ----------------------------------------------------------------------------------------------------

    def submit(self, command: Command, study: RecordStudy | None = None, trials: Sequence[RecordTrial] = ()) -> int:
        records: list[Record] = [*trials] if study is None else [study, *trials]
        batch = batch_of(records)
        # The leader tells the journal, when it takes the study in.
        batch.journal = []
        # Documents are nobody's until a trial names them. Outside of the transaction, which the leader has to wait for.
        for chunk in chunks(document_rows(batch.documents)):
            with self._writing() as connection:
                add_missing(connection, tables.documents, chunk)
        batch.documents = DocumentWriter()
        with self._refusing(records), self._writing() as connection:
            write(connection, batch)
            result = connection.execute(insert(tables.commands).values(row_of(command, "command_id")))
            (command_id,) = result.inserted_primary_key or (0,)
        return int(command_id)

    def command(self, command_id: int) -> Command:
        query = select(tables.commands).where(tables.commands.c.command_id == command_id)
        return command_of(self._one(query, command_id))

    def study(self, study_id: str) -> Study:
        query = select(tables.studies).where(tables.studies.c.study_id == study_id)
        return study_of(self._one(query, study_id))

    def studies(self, *, open_only: bool = False) -> list[Study]:
        c = tables.studies.c
        query = select(tables.studies).order_by(c.submitted_at, c.study_id)
        return [study_of(row) for row in self._all(query.where(c.ended_at.is_(None)) if open_only else query)]

    def trials(self, study_id: str) -> list[Trial]:
        c = tables.trials.c
        return self._trials(select(tables.trials).where(c.study_id == study_id).order_by(c.number, c.trial_id))

    def trial(self, trial_id: str) -> Trial:
        found = self._trials(select(tables.trials).where(tables.trials.c.trial_id == trial_id))
        if not found:
            raise KeyError(trial_id)
        return found[0]

    def _trials(self, query: Select[Any]) -> list[Trial]:
        found = self._all(query)
        with self._documents_lock:
            variants = self._documents.variants({row["variant"] for row in found}, self._document_bodies)
        return [trial_of(row, variants[row["variant"]]) for row in found]

    def _document_bodies(self, digests: Iterable[str]) -> dict[str, str]:
        with self._reading() as connection:
            found = rows_among(connection, select(tables.documents), tables.documents.c.digest, digests)
        return {row["digest"]: row["body"] for row in found}

    def allocations(self, study_id: str | None = None) -> list[Allocation]:
        c = tables.allocations.c
        query = select(tables.allocations).order_by(c.opened_at, c.bundle_id)
        found = self._all(query if study_id is None else query.where(c.study_id == study_id))
        return [allocation_of(row) for row in found]

    def allocations_about(self, study_id: str) -> list[Allocation]:
        c, of_stacks = tables.allocations.c, tables.allocations.alias().c
        own = tables.allocations.alias().c
        stack_ids = select(own.stack_id).where(own.study_id == study_id, own.stack_id != "")
        # Of devices the database can't ask: it leaves out what came before the first stack or after the last.
        began, ended = (
            select(edge).where(of_stacks.stack_id.in_(stack_ids)).scalar_subquery()
            for edge in (func.min(of_stacks.opened_at), func.max(func.coalesce(of_stacks.closed_at, _NEVER)))
        )
        meanwhile = and_(c.opened_at < ended, func.coalesce(c.closed_at, _NEVER) > began)
        query = select(tables.allocations).where(or_(c.study_id == study_id, meanwhile))
        found = self._all(query.order_by(c.opened_at, c.bundle_id))
        return about(study_id, (allocation_of(row) for row in found))

    def devices(self) -> list[Device]:
        c = tables.devices.c
        return [device_of(row) for row in self._all(select(tables.devices).order_by(c.node_id, c.index))]

    def predictions(self, study_id: str) -> list[Prediction]:
        c = tables.predictions.c
        query = select(tables.predictions).where(c.study_id == study_id).order_by(c.trial_id)
        return [Prediction(**row) for row in self._all(query)]

    # --- the journal and its forwarder --------------------------------------------------------------------------------

    def journal(self, after: int, limit: int, *, trial_id: str = "") -> list[JournalEntry]:
        c = tables.journal.c
        query = select(tables.journal).where(c.sequence > after).order_by(c.sequence).limit(limit)
        return [entry_of(row) for row in self._all(query.where(c.trial_id == trial_id) if trial_id else query)]

    def journal_end(self, study_id: str = "") -> int:
        c = tables.journal.c
        query = select(func.coalesce(func.max(c.sequence), 0).label("end"))
        return int(self._all(query.where(c.study_id == study_id) if study_id else query)[0]["end"])

    def forwarded(self) -> int:
        return int(self._all(select(tables.forwarding.c.sequence))[0]["sequence"])

    def set_forwarded(self, sequence: int) -> None:
        """Points that the tracker has live there from now on: they would be the bulk of the database."""
        c = tables.journal.c
        before = select(tables.forwarding.c.sequence).scalar_subquery()
        points = delete(tables.journal).where(c.sequence > before, c.sequence <= sequence, c.kind == JournalKind.POINT)
        with self._writing() as connection:
            connection.execute(points)
            connection.execute(update(tables.forwarding).values(sequence=sequence))

    # --- access -------------------------------------------------------------------------------------------------------

    def add_token(self, token: Token) -> None:
        try:
            with self._writing() as connection:
                connection.execute(insert(tables.tokens).values(row_of(token)))
        except IntegrityError as error:
            raise KeyError(token.name) from error

    def token(self, digest: str) -> Token | None:
        found = self._all(select(tables.tokens).where(tables.tokens.c.digest == digest))
        return token_of(found[0]) if found else None

    def tokens(self) -> list[Token]:
        return [token_of(row) for row in self._all(select(tables.tokens).order_by(tables.tokens.c.name))]

    def revoke_token(self, name: str, at: float) -> None:
        c = tables.tokens.c
        statement = update(tables.tokens).where(c.name == name).values(revoked_at=func.coalesce(c.revoked_at, at))
        with self._writing() as connection:
            if not connection.execute(statement).rowcount:
                raise KeyError(name)


def _takes_effect(connection: Connection, term: int, batch: int) -> bool:
    """The fence. Whether the call is yet to be written: not if it was committed, and its answer lost. Raises LeaseLost.

    Where there are row locks, writers wait for each other here.
    """
    lease = tables.leases
    statement = update(lease).where(lease.c.term == term, lease.c.batch == batch - 1)
    if connection.execute(statement.values(beat=lease.c.beat + 1, beat_at=time.time(), batch=batch)).rowcount:
        return True
    held = connection.execute(select(lease.c.term, lease.c.batch)).one()
    if (held.term, held.batch) == (term, batch):
        return False
    raise LeaseLost(f"term {held.term} at call {held.batch} is on, not term {term} at call {batch}")


def _beat(connection: Connection, term: int, at: float, **changes: None) -> bool:
    lease = tables.leases
    statement = update(lease).where(lease.c.term == term)
    return bool(connection.execute(statement.values(beat=lease.c.beat + 1, beat_at=at, **changes)).rowcount)
