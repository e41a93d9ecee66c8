"""How the store talks to its database: connections, their transactions, and how long they wait for others."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Column, Connection, Engine, Select, create_engine, event, make_url

# A caller that waits in its own loop says what it waits for; here it is waited as long as other writers may take.
_LOCK_TIMEOUT_MS = 5_000

# PostgreSQL ends a transaction whose process was stopped in the middle of it: its locks would keep every other leader
# out. Connections that lead nowhere any more are noticed in about as long.
_POSTGRES = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "options": f"-c lock_timeout={_LOCK_TIMEOUT_MS} -c idle_in_transaction_session_timeout={2 * _LOCK_TIMEOUT_MS}",
}

# SQLite takes 32,766 values in a statement, PostgreSQL 65,535.
_CHUNK = 5_000

T = TypeVar("T")


def open_engine(url: str) -> Engine:
    """Connections on which transactions are what they are called. Raises ArgumentError for an address that is none."""
    if make_url(url).get_backend_name() == "sqlite":
        engine = create_engine(url, pool_timeout=_LOCK_TIMEOUT_MS / 1000)
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return create_engine(url, pool_timeout=_LOCK_TIMEOUT_MS / 1000, pool_pre_ping=True, connect_args=_POSTGRES)


def writer(engine: Engine) -> Engine:
    """The same connections, for transactions that write."""
    return engine.execution_options(writes=True)


def _configure_sqlite(connection: Any, _record: Any) -> None:
    """Write-ahead logging lets readers look while somebody writes. A commit is on disk when it returns."""
    # sqlite3 would begin transactions by itself, and too late; `_begin_sqlite` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_LOCK_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """A transaction that reads before it writes would fail, without waiting, if another has written in between."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def rows_of(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    """All rows, as dicts of one's own: SQLAlchemy's mappings are slow to copy."""
    result = connection.execute(query)
    names = tuple(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result]


def rows_among(
    connection: Connection, query: Select[Any], column: Column[Any], values: Iterable[object]
) -> list[dict[str, Any]]:
    """The rows whose `column` is one of any number of values."""
    return [row for chunk in chunks(list(values)) for row in rows_of(connection, query.where(column.in_(chunk)))]


def chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Parts that fit into one statement, and into a transaction that nobody minds waiting for."""
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))
