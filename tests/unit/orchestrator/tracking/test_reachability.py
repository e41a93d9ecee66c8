import base64
import http.server
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.ports import TrackingUnavailable
from orchestrator.tracking import build_tracker
from orchestrator.tracking.reachability import check_uri, find_experiment


@pytest.fixture
def requests() -> list[str | None]:
    """The credentials that came with each request."""
    return []


@pytest.fixture
def web_server(requests: list[str | None]) -> Iterator[str]:
    """A server that answers every request with a page of HTML, as anything but MLflow does."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.headers["Authorization"])
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_new_file_in_a_new_folder_will_do_and_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "home" / "mlflow.db"
    check_uri(f"sqlite:///{path}", 3.0)
    assert not path.exists()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("this is not a database")
    with pytest.raises(TrackingUnavailable, match=r"mlflow\.db is not an SQLite database; name another file"):
        check_uri(f"sqlite:///{path}", 3.0)


def test_a_database_of_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table trials (id)")
    connection.close()
    with pytest.raises(TrackingUnavailable, match="other than MLflow"):
        check_uri(f"sqlite:///{path}", 3.0)


def test_a_folder_that_can_not_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingUnavailable, match="can't create the folder"):
        check_uri(f"sqlite:///{tmp_path}/file/mlflow.db", 3.0)


@pytest.mark.parametrize("uri", ["ftp://host", "postgresql://host/db", "mlruns", "", "sqlite:///", "sqlite:mlflow.db"])
def test_an_address_of_another_kind_says_what_would_do(uri: str) -> None:
    with pytest.raises(TrackingUnavailable, match=r"use sqlite:////path/to/mlflow\.db"):
        check_uri(uri, 3.0)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "http://no-such-host.invalid:5000"])
def test_a_server_that_is_not_there_is_named_within_seconds(uri: str) -> None:
    began = time.perf_counter()
    with pytest.raises(TrackingUnavailable, match=f"{uri}.*start `mlflow server`"):
        build_tracker("mlflow", uri=uri).check()
    assert time.perf_counter() - began < 4.0


def test_a_server_of_something_else_is_told_from_mlflow(web_server: str) -> None:
    with pytest.raises(TrackingUnavailable, match="not as an MLflow server"):
        check_uri(web_server, 3.0)


def test_a_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(TrackingUnavailable) as caught:
        check_uri("http://me:hunter2@127.0.0.1:9", 3.0)
    assert "http://me:***@127.0.0.1:9" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_password_of_an_address_is_sent_as_mlflow_would(web_server: str, requests: list[str | None]) -> None:
    with pytest.raises(TrackingUnavailable):
        check_uri(web_server.replace("//", "//me:p%40ss@"), 3.0)
    assert requests == [f"Basic {base64.b64encode(b'me:p@ss').decode()}"]


def test_nothing_is_found_where_nobody_answers(tmp_path: Path) -> None:
    assert find_experiment(f"sqlite:///{tmp_path}/no.db", "/study-1", 3.0) == ""
    assert find_experiment("http://127.0.0.1:9", "/study-1", 3.0) == ""


def test_an_unknown_tracker_is_named() -> None:
    with pytest.raises(ValueError, match="tracking=wandb: no such tracker; use one of memory, mlflow"):
        build_tracker("wandb")


def test_building_and_checking_import_no_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys; from orchestrator.tracking.reachability import check_uri\n"
        "from orchestrator.tracking import build_tracker\n"
        f"uri = 'sqlite:///{tmp_path}/mlflow.db'\n"
        "build_tracker('mlflow', uri=uri); check_uri(uri, 3.0)\n"
        "assert not {'mlflow', 'sqlalchemy', 'yaml', 'numpy'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
