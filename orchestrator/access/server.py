"""An HTTP server inside the process that serves the store, in a thread of its own."""

import ipaddress
import logging
import socket
import threading
import time
from types import TracebackType
from typing import Self

import uvicorn
from starlette.types import ASGIApp

from orchestrator.config import ConfigError

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 200
STOP_TIMEOUT_S = 5


class HttpServer:
    """Plain HTTP; TLS is for a reverse proxy in front of it. Nothing of a request is logged, so no token is either."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        """Nothing is opened before `start`. `port` 0 takes any that is free."""
        self._host = host
        self._port = port
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                ws="none",
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=STOP_TIMEOUT_S,
            )
        )
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Answer requests from now on; the address that is served. Raises ConfigError if it can't be had."""
        listener = self._listen()
        self._port = listener.getsockname()[1]
        if not _is_loopback(self._host):
            logger.warning(
                "%s is plain HTTP that others can reach: tokens can be read on the way without TLS", self.url
            )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="http-server", daemon=True
        )
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)
        return self.url

    def stop(self) -> None:
        """Finish the requests being answered, within seconds, and let go of the address. Safe to call twice."""
        if self._thread is not None:
            self._server.should_exit = True
            self._thread.join(2 * STOP_TIMEOUT_S)
            self._thread = None

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            if not 0 <= self._port < 2**16:
                raise OSError("a port is a number from 0 to 65535")
            return socket.create_server((self._host, self._port), family=family)
        except OSError as error:
            reason = getattr(error, "strerror", None) or str(error)
            remedy = f"{reason}; give an address of this machine and a free port, such as 127.0.0.1:8321"
            raise ConfigError("http", f"{self._host}:{self._port}", remedy) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
