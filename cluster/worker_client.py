"""The agent's end of the socket to one worker."""

import contextlib
import socket

from cluster import wire

_END_S = 5.0


class WorkerConnection:
    """What a worker says, and the one thing that it can be asked. Never waits, except in `await_end`."""

    def __init__(self, connection: socket.socket) -> None:
        """Takes the socket over."""
        self._socket = connection
        self._socket.setblocking(False)
        self._buffer = wire.LineBuffer()

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def read(self) -> tuple[list[wire.Message], bool]:
        """All that has come in, oldest first, and whether more may come: False at the end of the stream."""
        messages: list[wire.Message] = []
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return messages, True
            except OSError:  # reset by the death of the process, or (see `expect_end`) timed out
                return messages, False
            if not data:
                return messages, False
            messages += self._buffer.feed(data)

    def request_stop(self) -> None:
        """Ask the stage to end at its next step boundary; a worker that has just ended doesn't hear it."""
        with contextlib.suppress(OSError):
            self._socket.send(wire.encode({"kind": "stop"}))

    def expect_end(self) -> None:
        """From now on `read` waits for the end of the stream, some seconds at most: the worker is being killed."""
        self._socket.settimeout(_END_S)

    def await_end(self) -> None:
        """Until the stream ends, dropping what comes: afterwards nothing of the worker writes anywhere any more."""
        self.expect_end()
        while self.read()[1]:
            pass

    def close(self) -> None:
        """Let go."""
        self._socket.close()
