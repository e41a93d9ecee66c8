"""The durable truth on SQLAlchemy: one transaction per call of `apply`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, select
from sqlalchemy.dialects import postgresql, sqlite

from orchestrator.events import Record, RecordAllocation, RecordStage, RecordStudy, RecordTrial
from orchestrator.schema import Allocation, DeviceKind, Outcome, Stage, StageState, Study, Trial, TrialState, Variant
from orchestrator.store import tables
from orchestrator.store.migrate import migrate


class DatabaseStore:
    """A `ports.Store` on an SQLAlchemy URL: `sqlite:///path/to/store.db` or `postgresql+psycopg://user@host/name`.

    Opening it makes or migrates the tables.
    """

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _configure_sqlite)
        try:
            migrate(self._engine)
        except BaseException:
            self._engine.dispose()
            raise

    def apply(self, records: Sequence[Record]) -> None:
        if not records:
            return
        with self._engine.begin() as connection:
            for record in records:
                match record:
                    case RecordStudy():
                        _write_study(connection, record.study)
                    case RecordTrial():
                        _write_trial(connection, record.trial)
                    case RecordStage():
                        _write_stage(connection, record)
                    case RecordAllocation():
                        _write_allocation(connection, record.allocation)

    def study(self, study_id: str) -> Study:
        with self._engine.connect() as connection:
            row = connection.execute(select(tables.studies).where(tables.studies.c.study_id == study_id)).first()
        if row is None:
            raise KeyError(study_id)
        return _study(row._mapping)

    def studies(self) -> list[Study]:
        with self._engine.connect() as connection:
            rows = connection.execute(select(tables.studies).order_by(tables.studies.c.submitted_at)).all()
        return [_study(row._mapping) for row in rows]

    def trials(self, study_id: str) -> list[Trial]:
        query = (
            select(tables.trials, tables.variants)
            .join(tables.variants, tables.variants.c.trial_id == tables.trials.c.trial_id)
            .where(tables.trials.c.study_id == study_id)
            .order_by(tables.trials.c.number)
        )
        with self._engine.connect() as connection:
            return [_trial(row._mapping) for row in connection.execute(query)]

    def allocations(self, study_id: str) -> list[Allocation]:
        table = tables.allocations
        query = select(table).where(table.c.study_id == study_id).order_by(table.c.opened_at, table.c.bundle_id)
        with self._engine.connect() as connection:
            return [_allocation(row._mapping) for row in connection.execute(query)]

    def completed_stages(self, keys: Sequence[str]) -> dict[str, Outcome]:
        table = tables.stages
        query = select(table.c.stage_key, table.c.outcome).where(
            table.c.stage_key.in_(keys), table.c.state == StageState.COMPLETED.value
        )
        with self._engine.connect() as connection:
            return {row.stage_key: Outcome(**row.outcome) for row in connection.execute(query)}

    def close(self) -> None:
        self._engine.dispose()

    @property
    def engine(self) -> Engine:
        """For inspection in tests."""
        return self._engine


def _configure_sqlite(connection: Any, _record: Any) -> None:
    """Write-ahead logging lets readers (`report`) look while a study writes; a busy writer is waited for."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _upsert(connection: Connection, table: Table, row: dict[str, Any]) -> None:
    statement = _insert(connection, table).values(**row)
    keys = [column.name for column in table.primary_key]
    changed = {name: statement.excluded[name] for name in row if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed))


def _insert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """The two databases spell an upsert alike, but SQLAlchemy has no word for both."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def _write_study(connection: Connection, study: Study) -> None:
    row = asdict(study) | {"sweep": list(study.sweep), "device_kind": study.device_kind.value}
    _upsert(connection, tables.studies, row)


def _write_trial(connection: Connection, trial: Trial) -> None:
    fields = {
        name: getattr(trial, name) for name in Trial.__dataclass_fields__ if name not in ("variant", "state", "metrics")
    }
    row = fields | {
        "state": trial.state.value,
        "metrics": dict(trial.metrics),
        "reused_stages": list(trial.reused_stages),
    }
    _upsert(connection, tables.trials, row)
    variant = trial.variant
    statement = _insert(connection, tables.variants).values(
        trial_id=trial.trial_id,
        variant_key=variant.key,
        algorithm=variant.algorithm,
        seed=variant.seed,
        overrides=list(variant.overrides),
        config=variant.config,
        stages=[asdict(stage) for stage in variant.stages],
    )
    if trial.attempt == 0:
        connection.execute(statement.on_conflict_do_nothing())


def _write_stage(connection: Connection, record: RecordStage) -> None:
    row = {
        "stage_key": record.stage.key,
        "name": record.stage.name,
        "parent_key": record.stage.parent_key,
        "state": record.state.value,
        "outcome": asdict(record.outcome),
    }
    _upsert(connection, tables.stages, row)


def _write_allocation(connection: Connection, allocation: Allocation) -> None:
    row = asdict(allocation) | {
        "trial_ids": list(allocation.trial_ids),
        "device_ids": list(allocation.device_ids),
    }
    _upsert(connection, tables.allocations, row)


def _study(row: Any) -> Study:
    values = dict(row)
    return Study(**(values | {"sweep": tuple(values["sweep"]), "device_kind": DeviceKind(values["device_kind"])}))


def _trial(row: Any) -> Trial:
    variant = Variant(
        key=row["variant_key"],
        algorithm=row["algorithm"],
        seed=row["seed"],
        overrides=tuple(row["overrides"]),
        config=row["config"],
        stages=tuple(Stage(**stage) for stage in row["stages"]),
    )
    fields = {name: row[name] for name in Trial.__dataclass_fields__ if name not in ("variant", "trial_id")}
    fields |= {"state": TrialState(row["state"]), "reused_stages": tuple(row["reused_stages"])}
    return Trial(trial_id=row[tables.trials.c.trial_id], variant=variant, **fields)


def _allocation(row: Any) -> Allocation:
    values = dict(row)
    return Allocation(**(values | {"trial_ids": tuple(values["trial_ids"]), "device_ids": tuple(values["device_ids"])}))
