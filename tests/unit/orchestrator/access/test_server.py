"""The HTTP server on a real socket."""

import http.client
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from orchestrator.access.app import create_app
from orchestrator.access.server import HttpServer
from orchestrator.access.tokens import new_token
from orchestrator.config import ConfigError
from orchestrator.schema import Role
from orchestrator.store.memory import MemoryStore
from tests.unit.orchestrator.access.services import access, opened_home

LIMIT = 1000


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def server(tmp_path: Path, store: MemoryStore) -> Iterator[HttpServer]:
    app = create_app(store, opened_home(tmp_path), access(max_body_bytes=LIMIT))
    with HttpServer(app, "127.0.0.1", 0) as server:
        yield server


def test_it_answers_at_the_address_it_reports(server: HttpServer) -> None:
    assert server.url.startswith("http://127.0.0.1:")
    assert requests.get(f"{server.url}/healthz", timeout=5).json() == {"status": "ok"}


def test_after_stopping_the_port_is_free_and_no_thread_is_left(server: HttpServer) -> None:
    server.stop()
    server.stop()
    assert "http-server" not in {thread.name for thread in threading.enumerate()}
    address = urlsplit(server.url)
    with socket.create_server((address.hostname, address.port)):
        pass


def test_a_taken_port_is_refused_by_name(server: HttpServer, tmp_path: Path) -> None:
    port = urlsplit(server.url).port
    assert port is not None
    other = HttpServer(create_app(MemoryStore(), opened_home(tmp_path), access()), "127.0.0.1", port)
    with pytest.raises(ConfigError, match=rf"^http=127.0.0.1:{port}: .*free port"):
        other.start()


@pytest.mark.parametrize(("host", "port"), [("256.0.0.1", 0), ("127.0.0.1", 70000), ("no.such.host.invalid", 0)])
def test_an_address_that_cant_be_had_is_refused(tmp_path: Path, host: str, port: int) -> None:
    server = HttpServer(create_app(MemoryStore(), opened_home(tmp_path), access()), host, port)
    with pytest.raises(ConfigError, match=rf"^http={host}:{port}: "):
        server.start()


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_it_warns_where_tokens_can_be_read_on_the_way(
    tmp_path: Path, host: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with HttpServer(create_app(MemoryStore(), opened_home(tmp_path), access()), host, 0):
        pass
    assert ("without TLS" in caplog.text) is warned


def test_no_token_is_logged(server: HttpServer, store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = new_token(store, "ada", Role.ADMIN, "default")
    for path in ("/v1/studies", "/v1/status/nothing", "/nowhere"):
        requests.get(f"{server.url}{path}", headers={"Authorization": f"Bearer {token}"}, timeout=5)
    assert token not in caplog.text
    assert token.removeprefix("orc_") not in caplog.text


def send_chunks(url: str, token: str, chunks: list[bytes]) -> int:
    """POST without saying how long the body is. The status of the answer."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        connection.request("POST", "/v1/commands", iter(chunks), headers, encode_chunked=True)
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_body_of_unknown_length_is_counted_as_it_arrives(server: HttpServer, store: MemoryStore) -> None:
    token = new_token(store, "ada", Role.ADMIN, "default")
    padding = [b" " * 100] * 9
    assert send_chunks(server.url, token, [*padding, b"{}"]) == 422
    assert send_chunks(server.url, token, [*padding, *padding, b"{}"]) == 413


def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(server: HttpServer, store: MemoryStore) -> None:
    token = new_token(store, "ada", Role.ADMIN, "default")
    address = urlsplit(server.url)
    with socket.create_connection((str(address.hostname), address.port), timeout=10) as connection:
        head = f"POST /v1/commands HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 999999999\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
