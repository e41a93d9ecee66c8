"""What revision a database is at, and how it gets to the newest."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from orchestrator.events import RecordAllocation, RecordMeasured, RecordStudy
from orchestrator.schema import (
    Outcome,
    TrialState,
)
from orchestrator.store import migrations
from orchestrator.store.database import DatabaseStore
from orchestrator.store.engine import open_engine
from orchestrator.store.migrate import HEAD, NewerStore, alembic_config
from orchestrator.store.tables import metadata
from tests.contracts.databases import OnPostgres, OnSqlite
from tests.contracts.store_records import (
    line,
    moved,
)
from tests.unit.orchestrator.builders import stage, study, variant

LINES = (("x", 1.0), ("y", 2.0))
# A line of the ledger from before anybody wrote down what it was expected to take.
WITHOUT_ESTIMATES = {
    "estimated_memory_bytes": 0,
    "estimated_from": "",
    "expected_s": None,
    "expected_low_s": None,
    "expected_high_s": None,
}


class MigrationContract:
    """Subclasses give the `url` of a new database."""

    def test_several_open_a_new_database_at_the_same_moment(self, url: str) -> None:
        with ThreadPoolExecutor(4) as pool:
            stores = list(pool.map(DatabaseStore, [url] * 4))
        for opened in stores:
            assert opened.studies() == []
            opened.close()

    @pytest.fixture
    def database(self, url: str) -> Iterator[DatabaseStore]:
        store = DatabaseStore(url)
        yield store
        store.close()

    def test_the_migrations_make_the_tables_that_the_code_expects(self, database: DatabaseStore) -> None:
        with database.engine.connect() as connection:
            context = MigrationContext.configure(connection)
            assert context.get_current_revision() == HEAD
            assert compare_metadata(context, metadata) == []

    def test_a_database_of_a_newer_version_is_refused(self, database: DatabaseStore, url: str) -> None:
        with database.engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(NewerStore, match="update the project"):
            DatabaseStore(url)

    def test_what_the_first_revision_held_is_there_after_the_upgrade(self, url: str) -> None:
        write_first_revision(url)
        store = DatabaseStore(url)
        assert store.studies() == [replace(study(), config={"seed": 0}, sweep=("seed=0,1",))]
        warmup = replace(stage("warmup"), config={"task": {"name": "addition"}, "seed": 0})
        main = stage("main", warmup)
        made = replace(variant(warmup, main, overrides=("seed=1",), seed=1), config={"task": {"name": "addition"}})
        (trial,) = store.trials("study-1")
        assert trial.variant == made
        assert (trial.state, trial.metrics, trial.reused_stages) == (TrialState.PAUSED, {"accuracy": 0.5}, ("k",))
        assert (trial.progress, trial.latest, trial.preemptions, trial.cloned_from) == (0.25, {}, 0, "")
        assert store.allocations() == [replace(line("x"), **WITHOUT_ESTIMATES, memory_bytes=0)]
        assert store.completed_stages([warmup.key]) == {warmup.key: Outcome(metrics={"accuracy": 0.25})}
        store.apply([moved(trial, TrialState.QUEUED), RecordAllocation(allocation=replace(line("x"), closed_at=2.0))])
        assert store.trial(trial.trial_id).state is TrialState.QUEUED
        store.close()

    def test_what_the_second_revision_held_is_there_after_the_upgrade(self, url: str) -> None:
        open_line, closed_line = line("x"), replace(line("y", 2.0), closed_at=3.0, busy_s=0.5, **WITHOUT_ESTIMATES)
        store = DatabaseStore(url)
        store.apply([RecordStudy(study=study()), *(RecordAllocation(allocation=line(n, at)) for n, at in LINES)])
        store.apply([RecordAllocation(allocation=closed_line)])
        store.close()
        downgrade(url, "0002")
        store = DatabaseStore(url)
        assert store.allocations() == [replace(open_line, **WITHOUT_ESTIMATES), closed_line]
        store.apply([RecordMeasured(bundle_id="x", peak_memory_bytes=5, utilisation=0.5)])
        (measured, _) = store.allocations()
        assert (measured.peak_memory_bytes, measured.utilisation) == (5, 0.5)
        # What guards closed lines against anybody's change came through the change of the table.
        with pytest.raises(DBAPIError, match="closed"), store.engine.begin() as connection:
            connection.execute(text("UPDATE allocations SET busy_s = 9 WHERE bundle_id = 'y'"))
        store.close()


class TestSqliteMigrations(OnSqlite, MigrationContract):
    pass


class TestPostgresMigrations(OnPostgres, MigrationContract):
    pass


def downgrade(url: str, revision: str) -> None:
    """Back to what an earlier version of the code left."""
    engine = open_engine(url)
    try:
        with engine.begin() as connection:
            command.downgrade(alembic_config(connection), revision)
            columns = {column["name"] for column in inspect(connection).get_columns("allocations")}
            assert "peak_memory_bytes" not in columns
    finally:
        engine.dispose()


def write_first_revision(url: str) -> None:
    """A database as revision 0001 left it, with a study in it."""
    engine = open_engine(url)
    made = {"task": {"name": "addition"}}
    warmup = asdict(stage("warmup")) | {"config": {**made, "seed": 0}}
    main = asdict(stage("main", stage("warmup")))
    for old in (warmup, main):
        del old["warm_from"], old["warm_step"]
    trial = {"trial_id": "t", "study_id": "study-1", "number": 0, "state": "paused", "stage_index": 1, "progress": 0.25}
    trial |= {"attempt": 2, "submitted_at": 1.0, "metrics": {"accuracy": 0.5}, "gpu_seconds": 2.5}
    trial |= {"reused_stages": ["k"], "error": ""}
    row_of_variant = {"trial_id": "t", "variant_key": main["key"], "algorithm": "sft", "seed": 1, "config": made}
    study_row = asdict(study()) | {"sweep": ["seed=0,1"], "config": {"seed": 0}}
    for name in ("overrides", "tenant", "priority", "halted"):
        del study_row[name]
    allocation_row = asdict(line("x"))
    for name in ("memory_bytes", "peak_memory_bytes", "utilisation", "stack_id", *WITHOUT_ESTIMATES):
        del allocation_row[name]
    rows = {
        "studies": study_row,
        "variants": {**row_of_variant, "overrides": ["seed=1"], "stages": [warmup, main]},
        "trials": trial,
        "stages": {
            "stage_key": warmup["key"],
            "name": "warmup",
            "parent_key": "",
            "state": "completed",
            "outcome": asdict(Outcome(metrics={"accuracy": 0.25})),
        },
        "allocations": allocation_row,
    }
    try:
        with engine.begin() as connection:
            command.upgrade(alembic_config(connection), "0001")
            for name, row in rows.items():
                values = {key: json.dumps(v) if isinstance(v, dict | list | tuple) else v for key, v in row.items()}
                marks = ", ".join(f":{key}" for key in values)
                connection.execute(text(f"INSERT INTO {name} ({', '.join(values)}) VALUES ({marks})"), values)
    finally:
        engine.dispose()


def test_the_head_that_the_code_expects_is_the_newest_migration() -> None:
    script = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert script.get_current_head() == HEAD
