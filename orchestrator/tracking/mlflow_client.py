"""MLflow's client, opened at the first record, and values as it takes them.

The only file that imports mlflow: the import takes 1.9 s, the creation of a database 2.6 s.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from orchestrator.tracking import runs
from orchestrator.tracking.whole import make_whole

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

T = TypeVar("T")

# MLflow's own limits (mlflow/utils/validation.py); a longer tag or param would be refused with its whole batch. Servers
# of version 2 take 5000 characters of a tag.
MAX_PARAM_CHARS: Final = 6000
MAX_TAG_CHARS: Final = 5000
MAX_NAME_CHARS: Final = 250
MAX_PARAMS_PER_BATCH: Final = 100
MAX_METRICS_PER_BATCH: Final = 1000

_NAME_FORBIDS: Final = re.compile(r"[^/\w.\- :]")


def open_client(uri: str, artifact_root: Path) -> "MlflowClient":
    """A client of what is at `uri`; an embedded database is made if it is missing, with its artifacts in
    `artifact_root`."""
    # Read by mlflow on import, and per request. Someone who set them knows better.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # The forwarder retries by itself, in order; a request that hangs for minutes would hold up its end.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient

    # These print tracebacks of faults that the forwarder retries, and a page of migrations on a new database.
    for name, level in (("mlflow.store.db.utils", logging.CRITICAL), ("alembic", logging.WARNING)):
        logging.getLogger(name).setLevel(level)
    _make_database(uri, artifact_root)
    return MlflowClient(tracking_uri=uri)


def _make_database(uri: str, artifact_root: Path) -> None:
    """MLflow's two seconds of migrations leave a database that nobody can use if their process is killed."""
    from sqlalchemy import make_url

    path = Path(make_url(uri).database or "") if uri.startswith("sqlite:") else Path()
    if path.name in ("", ":memory:"):
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    def make(unfinished: Path) -> None:
        root = artifact_root.absolute().as_uri()
        SqlAlchemyStore(f"sqlite:///{unfinished}", root).engine.dispose()  # type: ignore[no-untyped-call]

    make_whole(path, make)


def params_of(config: Mapping[str, object]) -> dict[str, str]:
    """In the characters and the length that MLflow takes."""
    return {
        _name(name): value if len(value) <= MAX_PARAM_CHARS else value[: MAX_PARAM_CHARS - 1] + "…"
        for name, value in runs.flatten(config).items()
    }


def param_of(name: str, value: str) -> "Param":
    """As MLflow takes it."""
    from mlflow.entities import Param

    return Param(name, value)


def metric_values(metrics: Mapping[str, float], step: int, at_ms: int) -> list["Metric"]:
    """As MLflow takes them; `at_ms` since the epoch."""
    from mlflow.entities import Metric

    return [Metric(_name(name), float(value), at_ms, step) for name, value in metrics.items()]


def run_tags(tags: Mapping[str, str]) -> list["RunTag"]:
    """As MLflow takes them."""
    from mlflow.entities import RunTag

    return [RunTag(name, value[:MAX_TAG_CHARS]) for name, value in tags.items()]


def _name(name: str) -> str:
    """`name` in the characters and the length that MLflow takes for params and metrics."""
    return _NAME_FORBIDS.sub("_", name)[:MAX_NAME_CHARS]


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """At most `size` at a time."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


def milliseconds(at: float) -> int:
    """MLflow's times are whole milliseconds since the epoch; `at` is in seconds."""
    return int(1000 * at)
