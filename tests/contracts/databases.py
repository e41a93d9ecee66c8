"""The databases that the store runs on, as mixins of test classes: each gives the address of one, `url`."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text

from orchestrator.store.database import DatabaseStore
from tests.contracts.postgres import PostgresServer, postgres_server


class OnSqlite:
    """A file that isn't there yet."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'store.db'}"


class OnMigratedSqlite:
    """A store without contents; migrated once and copied, since migrating takes longer than most tests."""

    @pytest.fixture(scope="class")
    @classmethod
    def migrated(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("migrated") / "store.db"
        DatabaseStore(f"sqlite:///{path}").close()
        return path

    @pytest.fixture
    def url(self, migrated: Path, tmp_path: Path) -> str:
        return f"sqlite:///{shutil.copy(migrated, tmp_path)}"


class OnPostgres:
    """An empty database on a real server from the Debian package `postgresql`, in a folder of its own."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls) -> Iterator[PostgresServer]:
        with postgres_server() as server:
            yield server

    @pytest.fixture
    def url(self, server: PostgresServer) -> Iterator[str]:
        with database(server, "store", template="template1") as url:
            yield url


class OnMigratedPostgres(OnPostgres):
    """A store without contents; migrated once and copied."""

    @pytest.fixture(scope="class")
    @classmethod
    def migrated(cls, server: PostgresServer) -> Iterator[str]:
        with database(server, "migrated", template="template1") as url:
            DatabaseStore(url).close()
            yield "migrated"

    @pytest.fixture
    def url(self, server: PostgresServer, migrated: str) -> Iterator[str]:
        with database(server, "store", template=migrated) as url:
            yield url


@contextmanager
def database(server: PostgresServer, name: str, template: str) -> Iterator[str]:
    """The address of a copy of `template`. The server may be restarted meanwhile."""
    engine = create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield server.url(name)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
