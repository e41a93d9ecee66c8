"""What a database's errors mean: some say that it will answer later."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from orchestrator.ports import StoreUnavailable

_SQLITE_LATER = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PROTOCOL,
    }
)

# SQLSTATE classes: connection, rolled back for the sake of another, resources (disk full), operator, system; and single
# codes: read-only, locked, ended while idle (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_POSTGRES_LATER = ("08", "40", "53", "57", "58", "25006", "55P03", "25P03")


@contextmanager
def said_as_unavailable() -> Iterator[None]:
    """Raises StoreUnavailable, with a reason of one line, for an error that says: not now. Others stay as they are."""
    try:
        yield
    except PoolTimeout as error:
        raise StoreUnavailable("every connection to the database is in use") from error
    except DBAPIError as error:
        if not _says_later(error):
            raise
        raise StoreUnavailable(reason(error)) from error


def reason(error: Exception) -> str:
    """The database's own words, on one line, without the statement."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return " ".join(str(original).split()) or type(original).__name__


def _says_later(error: DBAPIError) -> bool:
    original = error.orig
    if isinstance(original, sqlite3.Error):
        # Extended codes keep the primary one in the low byte.
        return getattr(original, "sqlite_errorcode", 0) & 0xFF in _SQLITE_LATER
    state: str | None = getattr(original, "sqlstate", None)
    if state is None:
        # The client's own errors have no code; an operational one means that there is no server to ask.
        return error.connection_invalidated or isinstance(error, OperationalError)
    return state.startswith(_POSTGRES_LATER)
