"""The agent's end of a forkserver: starting the process, and asking it to spawn and kill."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import wire
from cluster.environment import without_secrets
from cluster.forkserver import server_environment
from orchestrator.schema import DeviceKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkserverSpec:
    """What a forkserver imports, and where its own output goes.

    `preload` are modules, `python_path` folders that payloads are imported from besides the installed packages.
    """

    preload: tuple[str, ...]
    python_path: tuple[str, ...]
    device_kind: DeviceKind
    log: Path


class ForkserverProcess:
    """A forkserver that this process started. It ends when this process does, or by `kill`.

    It preloads at once, before anyone connects: start it early, do something else, connect later, also from another
    process on this machine. `address` is the path of its Unix socket, in a folder that only this user can enter.
    """

    def __init__(self, spec: ForkserverSpec) -> None:
        self._folder = tempfile.mkdtemp(prefix="forkserver-")
        self.address = os.path.join(self._folder, "socket")
        command = [sys.executable, "-P", "-m", "cluster.forkserver"]
        command += [f"--preload={module}" for module in spec.preload]
        command += [f"--python-path={folder}" for folder in spec.python_path]
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as listener, spec.log.open("ab") as log:
            listener.bind(self.address)
            listener.listen(1)
            # Its own session: the terminal's Ctrl-C reaches the driver alone, which decides what ends.
            self._process = subprocess.Popen(
                [*command, f"--listen-fd={listener.fileno()}"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**without_secrets(os.environ), **server_environment(spec.device_kind)},
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )

    def forget_address(self) -> None:
        """Remove the socket's folder; call it once the controller is connected."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def ended(self) -> bool:
        """True once the process is gone (and reaped)."""
        return self._process.poll() is not None

    def kill(self, grace_s: float = 1.0) -> None:
        """End the server and with it its children: by the end of its lifeline, after `grace_s` by force."""
        self.forget_address()
        assert self._process.stdin is not None
        self._process.stdin.close()
        # A server that is still importing doesn't look at its lifeline; then it has no children either.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        end_group(self._process.pid)
        self._process.wait()


def end_group(pid: int | None) -> None:
    """Kill the process group that `pid` (None: nobody) began, whether that process still lives or not.

    While anything is left in a group, nothing else gets its number; nothing left is fine.
    """
    if pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


class ForkserverConnection:
    """The controller's end of the connection to a forkserver; the process behind it may be anyone's child."""

    def __init__(self, address: str) -> None:
        """Raises OSError if no server listens at `address`."""
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise
        self._messages = wire.LineBuffer()
        self.pid: int | None = None

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def read(self) -> list[wire.Message] | None:
        """What came in, waiting for it if nothing has; None at the end of the stream: the server is dead."""
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionResetError:
            return None
        return self._messages.feed(data) if data else None

    def spawn(self, process: str, request: Mapping[str, Any], worker_end: socket.socket) -> None:
        """Ask for a child that talks over `worker_end`. Raises TypeError for a stage config that is no plain data.

        A dead server is not an error here: `read` says so.
        """
        line = wire.encode({"kind": "spawn", "process": process, **request})
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sent = socket.send_fds(self._socket, [line], [worker_end.fileno()])
            self._socket.sendall(line[sent:])

    def kill(self, pid: int) -> None:
        """Ask for the end of a child and all its group. A dead server is not an error here."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(wire.encode({"kind": "kill", "pid": pid}))

    def close(self) -> None:
        """Let go: the server kills its children and exits."""
        self._socket.close()
