"""Brings a database to the tables that this code expects."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from sqlalchemy import Connection, Engine, inspect, text

from orchestrator.store.engine import writer
from orchestrator.store.guards import install_guards

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0006"
"""The newest revision under migrations/versions; a test holds it against Alembic's own opinion."""

# Any number that nobody else on the database uses for an advisory lock.
_ADVISORY_LOCK = 7_303_014


class NewerStore(Exception):
    """The database was written by a newer version of this project. The message says what would do."""


def migrate(engine: Engine) -> None:
    """Upgrade to `HEAD` if the database is older. Raises NewerStore, and SQLAlchemy's errors if it can't be reached.

    A database that is up to date costs one query: Alembic (0.7 s) is imported only to migrate.
    """
    with engine.connect() as connection:
        if current_revision(connection) == HEAD:
            return
    with _alone(engine) as connection:
        revision = current_revision(connection)
        if revision is not None and revision > HEAD:
            raise NewerStore(f"the store is at revision {revision}, this code knows {HEAD}: update the project")
        if revision != HEAD:
            _upgrade(connection)


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """A transaction that no other process's migration overlaps: two may open a new store at the same moment."""
    with ExitStack() as stack:
        if engine.dialect.name == "sqlite" and engine.url.database:
            stack.enter_context(FileLock(f"{engine.url.database}.migrate.lock"))
        connection = stack.enter_context(writer(engine).connect())
        if engine.dialect.name == "sqlite":
            stack.enter_context(_foreign_keys_unchecked(connection))
        stack.enter_context(connection.begin())
        if engine.dialect.name == "postgresql":
            # Somebody else's migration is waited for, however large the database.
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        yield connection


@contextmanager
def _foreign_keys_unchecked(connection: Connection) -> Iterator[None]:
    """SQLite changes a table by making it anew, and what refers to it must not mind. Only outside a transaction."""
    cursor = connection.connection.cursor()
    cursor.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        cursor.execute("PRAGMA foreign_keys=ON")


def current_revision(connection: Connection) -> str | None:
    """The database's revision; None for one without tables."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(connection: Connection) -> None:
    from alembic import command

    command.upgrade(alembic_config(connection), "head")
    # Afterwards, whatever the migration did: a table that SQLite makes anew comes without its triggers.
    install_guards(connection)


def alembic_config(connection: Connection) -> "Config":
    """Alembic's configuration for our migrations on an open connection."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
