"""Can records arrive at an MLflow address, and where do they lie? Answered without importing MLflow (1.9 s)."""

import base64
import json
import os
import sqlite3
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlencode, urlsplit, urlunsplit

from orchestrator.ports import TrackingUnavailable
from orchestrator.redaction import redacted_text

_SQLITE_MAGIC: Final = b"SQLite format 3\x00"
_SQLITE_PREFIX: Final = "sqlite:///"


def check_uri(uri: str, timeout_s: float) -> None:
    """Raises TrackingUnavailable, naming `uri` and what would do, if records can't arrive there.

    `sqlite:///FILE`: the file is, or can become, a database that this process may write. `http(s)://HOST`: an MLflow
    server answers there within `timeout_s` [s], name resolution included.
    """
    scheme = urlsplit(uri).scheme
    if scheme == "sqlite":
        _check_sqlite(uri)
    elif scheme in ("http", "https"):
        _check_server(uri, timeout_s)
    else:
        raise TrackingUnavailable(
            f"tracking.uri={redacted_text(uri)!r}: not an address of MLflow; use sqlite:////path/to/mlflow.db or "
            "http://host:port (for another database start `mlflow server` in front of it)"
        )


def sqlite_path(uri: str) -> Path:
    """The file of a `sqlite:///` address, which is relative after three slashes and absolute after four."""
    return Path(uri.removeprefix(_SQLITE_PREFIX).partition("?")[0])


def _check_sqlite(uri: str) -> None:
    path = sqlite_path(uri)
    if not uri.startswith(_SQLITE_PREFIX) or not path.name:
        raise TrackingUnavailable(f"tracking.uri={uri!r}: names no file; use sqlite:////path/to/mlflow.db")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrackingUnavailable(
            f"tracking.uri={uri!r}: can't create the folder {path.parent} ({error.strerror}); name a folder that you "
            "may write, or set ORCHESTRATOR_HOME"
        ) from error
    if not path.exists():
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise TrackingUnavailable(
                f"tracking.uri={uri!r}: can't write in {path.parent}; name a folder that you may write, or set "
                "ORCHESTRATOR_HOME"
            )
        return
    _check_database_file(uri, path)


def _check_database_file(uri: str, path: Path) -> None:
    try:
        with path.open("r+b") as file:
            head = file.read(len(_SQLITE_MAGIC))
    except OSError as error:
        raise TrackingUnavailable(
            f"tracking.uri={uri!r}: can't open {path} for writing ({error.strerror}); name a file that you may write"
        ) from error
    if head and head != _SQLITE_MAGIC:
        raise TrackingUnavailable(f"tracking.uri={uri!r}: {path} is not an SQLite database; name another file")
    try:
        with sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0) as connection:
            names = {row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.OperationalError:
        # Locked by a writer: it is there, and whoever records waits for its turn.
        return
    except sqlite3.DatabaseError as error:
        raise TrackingUnavailable(f"tracking.uri={uri!r}: {path} is damaged ({error}); name another file") from error
    if names and "experiments" not in names:
        raise TrackingUnavailable(
            f"tracking.uri={uri!r}: {path} is a database of something other than MLflow; name another file"
        )


def _check_server(uri: str, timeout_s: float) -> None:
    """Ask in a thread of its own: the resolver ignores socket timeouts."""
    answer: list[str] = []
    asking = threading.Thread(target=lambda: answer.append(_ask(uri, timeout_s)), name="tracking-check", daemon=True)
    asking.start()
    asking.join(timeout_s)
    problem = answer[0] if answer else f"no answer within {timeout_s:g} s"
    if problem:
        raise TrackingUnavailable(
            f"tracking.uri={redacted_text(uri)!r}: {problem}; start `mlflow server`, correct the address, or leave "
            "tracking.uri empty to track into the home folder"
        )


def find_experiment(uri: str, suffix: str, timeout_s: float) -> str:
    """The id of the experiment whose name ends in `suffix`; empty if there is none, or nobody answers."""
    try:
        if urlsplit(uri).scheme == "sqlite":
            named = _experiments_in_file(sqlite_path(uri), timeout_s)
        else:
            # MLflow's LIKE takes "_" for any character, so that the answer may hold others.
            query = {"max_results": 1000, "filter": f"name LIKE '%{suffix}'"}
            named = _experiments_on_server(uri, query, timeout_s)
    except (sqlite3.Error, OSError, ValueError):
        return ""
    return next((experiment_id for name, experiment_id in named if name.endswith(suffix)), "")


def _experiments_in_file(path: Path, timeout_s: float) -> list[tuple[str, str]]:
    query = "select name, experiment_id from experiments where lifecycle_stage = 'active'"
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=timeout_s)
    try:
        return [(name, str(experiment_id)) for name, experiment_id in connection.execute(query)]
    finally:
        connection.close()


def _experiments_on_server(uri: str, query: dict[str, object], timeout_s: float) -> list[tuple[str, str]]:
    with urllib.request.urlopen(_request(uri, query), timeout=timeout_s) as response:
        found = json.load(response).get("experiments", [])
    return [(experiment["name"], experiment["experiment_id"]) for experiment in found]


def _ask(uri: str, timeout_s: float) -> str:
    """What is wrong with the server at `uri`, or an empty string."""
    try:
        with urllib.request.urlopen(_request(uri, {"max_results": 1}), timeout=timeout_s) as response:
            content_type = response.headers.get_content_type()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            return f"access refused ({error.code}): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return f"answers, but not as an MLflow server ({error.code})"
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"no answer within {timeout_s:g} s" if isinstance(reason, TimeoutError) else f"can't connect ({reason})"
    return "" if content_type == "application/json" else f"answers, but not as an MLflow server ({content_type})"


def _request(uri: str, query: dict[str, object]) -> urllib.request.Request:
    """A search for experiments, with the user and password of the address or of MLflow's own variables."""
    parts = urlsplit(uri)
    # urllib takes a password in an address for part of the host.
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")).rstrip("/")
    url = f"{bare}/api/2.0/mlflow/experiments/search?{urlencode(query, quote_via=quote)}"
    return urllib.request.Request(url, headers=_credentials(parts.username, parts.password))


def _credentials(user: str | None, password: str | None) -> dict[str, str]:
    """Those of the address, or else MLflow's own variables for authentication, as it would send them."""
    if user is not None:
        return _basic(unquote(user), unquote(password or ""))
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return _basic(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))
    return {}


def _basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
