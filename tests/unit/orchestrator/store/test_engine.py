"""Transactions on SQLite: who holds the lock, and from when on."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from orchestrator.store.engine import open_engine, writer


def lock(path: Path) -> None:
    """Take the lock that writers need, at once, and give it back. Raises sqlite3.OperationalError."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")


def test_a_transaction_that_writes_has_the_lock_before_its_first_statement(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'store.db'}")
    with writer(engine).begin(), pytest.raises(sqlite3.OperationalError, match="locked"):
        lock(tmp_path / "store.db")
    lock(tmp_path / "store.db")
    engine.dispose()


def test_a_transaction_that_reads_keeps_nobody_from_writing_and_sees_one_moment(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'store.db'}")
    with writer(engine).begin() as connection:
        connection.execute(text("CREATE TABLE numbers (n INTEGER)"))
    count = text("SELECT count(*) FROM numbers")
    with engine.connect() as reader:
        assert reader.execute(count).scalar() == 0
        with writer(engine).begin() as connection:
            connection.execute(text("INSERT INTO numbers VALUES (1)"))
        assert reader.execute(count).scalar() == 0
    with engine.connect() as reader:
        assert reader.execute(count).scalar() == 1
    engine.dispose()
