"""One suite for every `ports.Store`: what its sentences promise."""

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from orchestrator.events import (
    RecordAllocation,
    RecordDevices,
    RecordStage,
    RecordStudy,
)
from orchestrator.ports import Store, StoreUnavailable
from orchestrator.schema import (
    Lease,
    Outcome,
    StageState,
    Trial,
    TrialState,
)
from orchestrator.store.database import DatabaseStore
from orchestrator.store.memory import MemoryStore
from tests.contracts.databases import OnMigratedPostgres, OnMigratedSqlite
from tests.contracts.postgres import PostgresServer
from tests.contracts.store_queue import QueueContract
from tests.contracts.store_records import (
    HOLDER,
    asked,
    contents,
    line,
    moved,
    new,
    token,
)
from tests.contracts.store_service import ServiceContract
from tests.unit.orchestrator.builders import device, study, warm_started


class StoreContract(QueueContract, ServiceContract):
    """Subclasses give a `store` fixture."""

    @pytest.fixture(autouse=True)
    def _close(self, store: Store) -> object:
        yield
        store.close()


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class DatabaseContract(StoreContract):
    """What holds for every database; subclasses give its `url`."""

    @pytest.fixture
    def store(self, url: str) -> Store:
        return DatabaseStore(url)

    @pytest.fixture
    def database(self, store: Store) -> DatabaseStore:
        assert isinstance(store, DatabaseStore)
        return store

    def test_what_was_written_is_there_after_it_was_closed(self, store: Store, url: str) -> None:
        store.apply([RecordStudy(study=study())])
        store.close()
        again = DatabaseStore(url)
        assert [s.study_id for s in again.studies()] == ["study-1"]
        again.close()

    def test_one_reads_while_another_has_it_open(self, store: Store, url: str) -> None:
        reader = DatabaseStore(url)
        store.apply([RecordStudy(study=study()), *new(*warm_started(2))])
        assert reader.trials("study-1") == list(warm_started(2))
        reader.close()

    def test_several_submit_at_the_same_moment(self, store: Store, url: str) -> None:
        stores = [DatabaseStore(url) for _ in range(4)]

        def submit(n: int) -> list[int]:
            sent = []
            for k in range(5):
                study_id = f"study-{n}-{k}"
                made = new(*warm_started(8, study_id))
                # The same documents in opposite orders.
                sent.append(stores[n].submit(asked(), RecordStudy(study=study(study_id)), made[:: 1 if n % 2 else -1]))
            return sent

        with ThreadPoolExecutor(4) as pool:
            ids = [command_id for sent in pool.map(submit, range(4)) for command_id in sent]
        assert sorted(ids) == [command.command_id for command in store.pending_commands()]
        assert len(set(ids)) == 20
        assert all(len(store.trials(s.study_id)) == 8 for s in store.studies())
        for opened in stores:
            opened.close()

    def test_what_variants_have_in_common_is_stored_and_decoded_once(self, database: DatabaseStore) -> None:
        task = {"name": "addition", "size": 6000}
        config = [{"task": dict(task), "optimizer": {"lr": lr}} for lr in (0.1, 0.2, 0.3)]
        made = [
            replace(t, variant=replace(t.variant, config=c, seed=n))
            for n, (t, c) in enumerate(zip(warm_started(3), config, strict=True))
        ]
        database.apply([RecordStudy(study=study()), *new(*made)])
        with database.engine.connect() as connection:
            bodies = [json.loads(body) for body in connection.execute(text("SELECT body FROM documents")).scalars()]
        assert len([body for body in bodies if body == task]) == 1
        # Three variants, their three learning rates, three last stages, one warm-up, one task.
        assert len(bodies) == 11
        first, second, third = (trial.variant for trial in database.trials("study-1"))
        assert first.config["task"] is third.config["task"]
        assert first.stages[0] is second.stages[0]
        again = database.trials("study-1")
        assert all(a.variant is b for a, b in zip(again, (first, second, third), strict=True))

    def test_more_keys_than_a_statement_takes(self, store: Store) -> None:
        warmup = warm_started(1)[0].variant.stages[0]
        store.apply([RecordStage(stage=warmup, state=StageState.COMPLETED, outcome=Outcome())])
        keys = [f"key-{n}" for n in range(33_000)]
        assert store.completed_stages([*keys, warmup.key]) == {warmup.key: Outcome()}

    def test_text_that_no_database_takes_is_written_with_replacements(self, store: Store, trial: Trial) -> None:
        store.apply([moved(trial, TrialState.FAILED, error="a\0b \ud800 c")])
        assert store.trial(trial.trial_id).error == "a\ufffdb \ufffd c"

    def test_raw_sql_can_not_make_a_transition_that_does_not_exist(self, database: DatabaseStore) -> None:
        pairs = list(product(TrialState, TrialState))
        trials = [replace(t, state=was) for t, (was, _) in zip(warm_started(len(pairs)), pairs, strict=True)]
        database.apply([RecordStudy(study=study()), *new(*trials)])
        for trial, (was, to) in zip(trials, pairs, strict=True):
            change = text("UPDATE trials SET state = :to WHERE trial_id = :of").bindparams(to=to, of=trial.trial_id)
            if was.may_become(to):
                with database.engine.begin() as connection:
                    assert connection.execute(change).rowcount == 1
            else:
                with pytest.raises(IntegrityError, match="illegal_transition"), database.engine.begin() as connection:
                    connection.execute(change)

    def test_raw_sql_can_not_change_a_closed_line(self, database: DatabaseStore, trial: Trial) -> None:
        database.apply([RecordAllocation(allocation=line(name)) for name in ("open", "closed")])
        database.apply([RecordAllocation(allocation=replace(line("closed"), closed_at=2.0))])
        change = "UPDATE allocations SET share = 0.25 WHERE bundle_id = '{}'"
        with database.engine.begin() as connection:
            connection.execute(text(change.format("open")))
        with pytest.raises(IntegrityError, match="closed_line"), database.engine.begin() as connection:
            connection.execute(text(change.format("closed")))

    def test_an_error_that_will_not_go_away_is_not_called_unavailable(self, database: DatabaseStore) -> None:
        with database.engine.begin() as connection:
            connection.execute(text("DROP TABLE tokens"))
        with pytest.raises(DBAPIError, match="tokens"):
            database.tokens()


WRITES: dict[str, Callable[[Store], object]] = {
    "apply": lambda store: store.apply([RecordStudy(study=study("waits"))]),
    "renew_lease": lambda store: store.renew_lease(0, 1.0),
    "release_lease": lambda store: store.release_lease(0, 1.0),
    "submit": lambda store: store.submit(asked()),
    "set_forwarded": lambda store: store.set_forwarded(0),
    "add_token": lambda store: store.add_token(token("new")),
    "revoke_token": lambda store: store.revoke_token("ann", 1.0),
    "take_lease": lambda store: store.take_lease(Lease(term=0, beat=0, beat_at=0.0, holder=None), HOLDER, {}, 1.0),
}
READS: dict[str, Callable[[Store], object]] = {
    "lease": lambda store: store.lease(),
    "pending_commands": lambda store: store.pending_commands(),
    "completed_stages": lambda store: store.completed_stages(["k"]),
    "command": lambda store: store.command(1),
    "study": lambda store: store.study("study-1"),
    "studies": lambda store: store.studies(),
    "trials": lambda store: store.trials("study-1"),
    "trial": lambda store: store.trial("study-1-0000"),
    "allocations": lambda store: store.allocations(),
    "allocations_about": lambda store: store.allocations_about("study-1"),
    "devices": lambda store: store.devices(),
    "predictions": lambda store: store.predictions("study-1"),
    "journal": lambda store: store.journal(0, 9),
    "journal_end": lambda store: store.journal_end(),
    "forwarded": lambda store: store.forwarded(),
    "token": lambda store: store.token("d"),
    "tokens": lambda store: store.tokens(),
}


def in_use(store: Store) -> None:
    """Something of everything that `WRITES` and `READS` ask for."""
    store.submit(asked(), RecordStudy(study=study()), new(*warm_started(1)))
    store.add_token(token())


class TestSqliteStore(OnMigratedSqlite, DatabaseContract):
    def pragma(self, database: DatabaseStore, setting: str) -> int:
        """On the one connection that a single thread uses."""
        with database.engine.connect() as connection:
            result = connection.exec_driver_sql(f"PRAGMA {setting}")
            return int(result.scalar_one()) if result.returns_rows else 0

    @pytest.mark.parametrize("name", WRITES)
    def test_while_another_writes_it_is_unavailable(self, database: DatabaseStore, tmp_path: Path, name: str) -> None:
        in_use(database)
        self.pragma(database, "busy_timeout=10")
        before = contents(database)
        with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match=r"^database is locked$"):
                WRITES[name](database)
            assert contents(database) == before
            other.execute("ROLLBACK")
        WRITES[name](database)

    def test_another_that_writes_for_a_moment_is_waited_for(self, store: Store, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            release = threading.Timer(0.3, other.execute, ["ROLLBACK"])
            release.start()
            store.apply([RecordStudy(study=study())])
            release.join()
        assert store.studies() == [study()]

    def test_while_the_disk_is_full_it_is_unavailable_and_keeps_what_it_has(self, database: DatabaseStore) -> None:
        in_use(database)
        before = contents(database)
        self.pragma(database, f"max_page_count={self.pragma(database, 'page_count')}")
        large = replace(study("large"), config={"text": "x" * 100_000})
        with pytest.raises(StoreUnavailable, match=r"^database or disk is full$"):
            database.apply([RecordDevices(devices=(device(0),)), RecordStudy(study=large)])
        assert contents(database) == before
        self.pragma(database, "max_page_count=1000000")
        database.apply([RecordStudy(study=large)])
        assert database.study("large") == large

    def test_while_it_can_not_be_written_it_is_unavailable(self, database: DatabaseStore) -> None:
        self.pragma(database, "query_only=1")
        with pytest.raises(StoreUnavailable, match="readonly"):
            database.apply([RecordStudy(study=study())])
        self.pragma(database, "query_only=0")

    def test_a_commit_is_on_disk_when_it_returns(self, database: DatabaseStore) -> None:
        full = 2
        assert self.pragma(database, "synchronous") == full


class TestPostgresStore(OnMigratedPostgres, DatabaseContract):
    def test_while_the_server_is_away_it_is_unavailable_and_afterwards_as_before(
        self, store: Store, server: PostgresServer
    ) -> None:
        in_use(store)
        before = contents(store)
        server.stop()
        for name, call in (WRITES | READS).items():
            with pytest.raises(StoreUnavailable) as caught:
                call(store)
            assert "\n" not in str(caught.value), name
        server.start()
        assert contents(store) == before
        for call in (WRITES | READS).values():
            call(store)

    def test_a_server_that_restarted_meanwhile_is_not_noticed(self, store: Store, server: PostgresServer) -> None:
        in_use(store)
        server.stop()
        server.start()
        store.apply([RecordStudy(study=study("study-2"))])
        assert len(store.studies()) == 2

    @pytest.mark.slow
    def test_a_leader_that_stopped_within_its_transaction_is_put_out(self, database: DatabaseStore) -> None:
        """What a SIGSTOP leaves behind: a transaction that holds the lease's row, and nobody to end it."""
        other = DatabaseStore(database.engine.url.render_as_string(hide_password=False))
        stopped = other.engine.connect()
        stopped.execute(text("UPDATE leases SET beat = beat + 1"))
        seen = database.lease()
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            database.take_lease(seen, HOLDER, {}, 1.0)
        began = time.monotonic()
        while time.monotonic() < began + 10:
            try:
                taken = database.take_lease(seen, HOLDER, {}, 1.0)
            except StoreUnavailable:
                continue
            break
        assert taken == database.lease()
        with pytest.raises(DBAPIError):
            stopped.execute(text("COMMIT"))
        stopped.invalidate()
        stopped.close()
        other.close()
