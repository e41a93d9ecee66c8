"""One suite for every `ports.Store`."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from orchestrator.events import Record, RecordAllocation, RecordStage, RecordStudy, RecordTrial
from orchestrator.ports import Store
from orchestrator.schema import Allocation, Outcome, StageState, TrialState
from orchestrator.store import migrations
from orchestrator.store.database import DatabaseStore
from orchestrator.store.memory import MemoryStore
from orchestrator.store.migrate import HEAD, NewerStore
from orchestrator.store.tables import metadata
from tests.contracts.postgres import postgres_server
from tests.unit.orchestrator.builders import study, warm_started


def allocation(bundle_id: str, opened_at: float) -> Allocation:
    return Allocation(
        bundle_id=bundle_id,
        study_id="study-1",
        stage_key="k",
        trial_ids=("a", "b"),
        device_ids=("node-a/cpu0",),
        share=0.5,
        opened_at=opened_at,
    )


class StoreContract:
    """Subclasses give a `store` fixture."""

    @pytest.fixture(autouse=True)
    def _close(self, store: Store) -> object:
        yield
        store.close()

    def test_a_study_reads_back_as_it_was_written(self, store: Store) -> None:
        written = replace(study(), sweep=("seed=0,1",), config={"seed": 0, "nested": {"lr": 1e-3}})
        store.apply([RecordStudy(study=written)])
        assert store.study("study-1") == written

    def test_an_unknown_study_is_a_key_error(self, store: Store) -> None:
        with pytest.raises(KeyError):
            store.study("nope")

    def test_studies_come_oldest_first(self, store: Store) -> None:
        store.apply([RecordStudy(study=study("new", at=2.0)), RecordStudy(study=study("old", at=1.0))])
        assert [s.study_id for s in store.studies()] == ["old", "new"]

    def test_trials_read_back_as_they_were_last_written_by_number(self, store: Store) -> None:
        first, second = warm_started(2)
        later = replace(
            first,
            state=TrialState.COMPLETED,
            attempt=1,
            progress=0.5,
            metrics={"accuracy": 0.5},
            reused_stages=("k",),
            started_at=1.0,
            ended_at=2.0,
            gpu_seconds=1.5,
        )
        records: list[Record] = [RecordStudy(study=study()), RecordTrial(trial=second), RecordTrial(trial=first)]
        store.apply(records)
        store.apply([RecordTrial(trial=later)])
        assert store.trials("study-1") == [later, second]

    def test_allocations_come_by_the_time_they_were_opened(self, store: Store) -> None:
        late, early = allocation("x", 2.0), allocation("y", 1.0)
        closed = replace(late, closed_at=3.0, busy_s=0.5)
        store.apply([RecordStudy(study=study()), RecordAllocation(allocation=late)])
        store.apply([RecordAllocation(allocation=early), RecordAllocation(allocation=closed)])
        assert store.allocations("study-1") == [early, closed]

    def test_only_completed_stages_are_found_with_their_outcome(self, store: Store) -> None:
        warmup, main = warm_started(1)[0].variant.stages
        outcome = Outcome(metrics={"accuracy": 0.25}, busy_s=2.0, peak_memory_bytes=7)
        store.apply(
            [
                RecordStage(stage=warmup, state=StageState.COMPLETED, outcome=outcome),
                RecordStage(stage=main, state=StageState.RUNNING, outcome=Outcome()),
            ]
        )
        assert store.completed_stages([warmup.key, main.key, "other"]) == {warmup.key: outcome}

    def test_nothing_to_record_is_fine(self, store: Store) -> None:
        store.apply([])
        assert store.studies() == []


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class DatabaseContract(StoreContract):
    """What holds for every database; subclasses give its `url`."""

    @pytest.fixture
    def store(self, url: str) -> Store:
        return DatabaseStore(url)

    def test_a_failing_record_takes_the_whole_call_back(self, store: Store) -> None:
        orphan = RecordTrial(trial=replace(warm_started(1)[0], study_id="nobody"))
        with pytest.raises(IntegrityError):
            store.apply([RecordStudy(study=study()), orphan])
        assert store.studies() == []

    def test_what_was_written_is_there_after_it_was_closed(self, store: Store, url: str) -> None:
        store.apply([RecordStudy(study=study())])
        store.close()
        again = DatabaseStore(url)
        assert [s.study_id for s in again.studies()] == ["study-1"]
        again.close()

    def test_one_reads_while_another_has_it_open(self, store: Store, url: str) -> None:
        reader = DatabaseStore(url)
        store.apply([RecordStudy(study=study())])
        assert [s.study_id for s in reader.studies()] == ["study-1"]
        reader.close()

    def test_several_open_a_new_database_at_the_same_moment(self, url: str) -> None:
        with ThreadPoolExecutor(4) as pool:
            stores = list(pool.map(DatabaseStore, [url] * 4))
        for opened in stores:
            assert opened.studies() == []
            opened.close()

    def test_the_migrations_make_the_tables_that_the_code_expects(self, store: Store) -> None:
        assert isinstance(store, DatabaseStore)
        with store.engine.connect() as connection:
            context = MigrationContext.configure(connection)
            assert context.get_current_revision() == HEAD
            assert compare_metadata(context, metadata) == []

    def test_a_database_of_a_newer_version_is_refused(self, store: Store, url: str) -> None:
        assert isinstance(store, DatabaseStore)
        with store.engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(NewerStore, match="update the project"):
            DatabaseStore(url)


class TestSqliteStore(DatabaseContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'store.db'}"


class TestPostgresStore(DatabaseContract):
    """On a real server from the Debian package `postgresql`, in a folder of its own."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls) -> Iterator[str]:
        with postgres_server() as address:
            yield address

    @pytest.fixture
    def url(self, server: str) -> Iterator[str]:
        engine = create_engine(server.format("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("CREATE DATABASE store"))
        yield server.format("store")
        with engine.connect() as connection:
            connection.execute(text("DROP DATABASE store WITH (FORCE)"))
        engine.dispose()


def test_the_head_that_the_code_expects_is_the_newest_migration() -> None:
    script = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert script.get_current_head() == HEAD
