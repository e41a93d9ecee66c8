"""What the client makes of a service that isn't there, isn't one, or refuses."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestrator.access.app import create_app
from orchestrator.access.server import HttpServer
from orchestrator.access.tokens import new_token
from orchestrator.config import ConfigError
from orchestrator.control.operations import Forbidden, NotFound, ServiceUnavailable
from orchestrator.control.remote import RemoteOperations
from orchestrator.schema import CommandKind, Role
from orchestrator.store.memory import MemoryStore
from tests.unit.orchestrator.access.services import access, opened_home, queue_study

Answers = Callable[[int], tuple[int, dict[str, str], bytes]]


@contextmanager
def peer(answers: Answers) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Something that answers the n-th request with `answers(n)`; its address, and method, path and token of each."""
    requests: list[tuple[str, str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            requests.append((self.command, self.path, self.headers.get("Authorization", "")))
            status, headers, body = answers(len(requests))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def client(url: str, token: str = "orc_x") -> Iterator[RemoteOperations]:
    operations = RemoteOperations(url, token)
    try:
        yield operations
    finally:
        operations.close()


@pytest.mark.parametrize(
    "url", ["", "localhost:8321", "ftp://host", "http://", "http://user:hunter2@host", "http://h:x"]
)
def test_what_is_no_address_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^ORCHESTRATOR_URL=\.\.\.: give the service's address"):
        RemoteOperations(url, "orc_x")


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX-Evil: 1", "\N{SNOWMAN}"])
def test_what_is_no_token_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(ConfigError, match=r"^ORCHESTRATOR_TOKEN=\.\.\.: "):
        RemoteOperations("http://127.0.0.1:1", token)


def test_a_service_that_isnt_there_is_named_with_what_would_do() -> None:
    with client("http://127.0.0.1:9") as operations, pytest.raises(ServiceUnavailable) as unavailable:
        operations.command(CommandKind.PAUSE, "")
    message = str(unavailable.value)
    assert message.startswith("ORCHESTRATOR_URL=http://127.0.0.1:9: can't be reached (Connection refused)")
    assert "orchestrator serve --http" in message


def test_reading_is_tried_again_when_the_service_says_later() -> None:
    def answers(number: int) -> tuple[int, dict[str, str], bytes]:
        return (503, {"Retry-After": "0"}, b"{}") if number < 3 else (200, {}, b"[]")

    with peer(answers) as (url, requests), client(url) as operations:
        assert operations.studies() == []
        assert len(requests) == 3


def test_what_changes_something_is_asked_for_once() -> None:
    body = json.dumps({"error": "the store can't be reached now: locked"}).encode()
    with peer(lambda _: (503, {"Retry-After": "0"}, body)) as (url, requests), client(url) as operations:
        with pytest.raises(ServiceUnavailable, match="locked"):
            operations.command(CommandKind.CANCEL, "study-1")
        assert len(requests) == 1


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (404, b"<html>"), (500, b"oops"), (400, b"[1]")])
def test_something_else_that_answers_is_no_service(status: int, body: bytes) -> None:
    with (
        peer(lambda _: (status, {}, body)) as (url, _),
        client(url) as operations,
        pytest.raises(ServiceUnavailable, match=f"answered with status {status}"),
    ):
        operations.studies()


def test_the_token_goes_nowhere_else() -> None:
    with peer(lambda _: (200, {}, b"[]")) as (elsewhere, received):
        redirect = {"Location": f"{elsewhere}/v1/studies"}
        with (
            peer(lambda _: (307, redirect, b"")) as (url, _),
            client(url, "orc_secret") as operations,
            pytest.raises(ServiceUnavailable, match="answered with status 307"),
        ):
            operations.studies()
        assert received == []


def test_the_token_is_sent_whatever_a_netrc_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with peer(lambda _: (200, {}, b"[]")) as (url, requests), client(url, "orc_mine") as operations:
        operations.studies()
        assert requests == [("GET", "/v1/studies", "Bearer orc_mine")]


def test_an_id_is_one_part_of_the_path() -> None:
    with peer(lambda _: (200, {}, b"[]")) as (url, requests), client(url) as operations:
        operations.explain("../tokens?x=1#y")
        assert requests[0][1] == "/v1/trials/..%2Ftokens%3Fx%3D1%23y/explain"


def test_refusals_are_those_of_the_service_in_its_own_words(tmp_path: Path) -> None:
    store = MemoryStore()
    queue_study(store, "theirs", "alignment")
    token = new_token(store, "ada", Role.LEAD, "reasoning")
    app = create_app(store, opened_home(tmp_path), access(max_body_bytes=1000))
    with HttpServer(app, "127.0.0.1", 0) as server, client(server.url, token) as operations:
        with pytest.raises(Forbidden, match=r"^theirs is tenant alignment's; ada may look at it only$"):
            operations.command(CommandKind.CANCEL, "theirs")
        with pytest.raises(NotFound, match=r"^trial='nothing': no such trial"):
            operations.explain("nothing")
        with pytest.raises(ConfigError, match=r"^cluster='local': belongs to the service"):
            operations.submit(["cluster=local"])
        with pytest.raises(ConfigError, match=r"^overrides=\.\.\.: more than the service takes at once"):
            operations.submit(["seed=" + "1," * 900 + "1"])
        store.revoke_token("ada", time.time())
        with pytest.raises(Forbidden, match="revoked; set ORCHESTRATOR_TOKEN"):
            operations.studies()
