"""The agent's end of the socket to one worker."""

import socket

from cluster import wire

_END_S = 5.0


class WorkerConnection:
    """What a worker says, and what it is told. Never waits, except in `await_end`: what the socket doesn't take at once
    is kept, and goes on by `flush`."""

    def __init__(self, connection: socket.socket) -> None:
        """Takes the socket over."""
        self._socket = connection
        self._socket.setblocking(False)
        self._buffer = wire.LineBuffer()
        self._unsent = bytearray()

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

    def send(self, message: wire.Message) -> None:
        """Tell the worker; one that has just ended doesn't hear it. Raises TypeError for what is no plain data."""
        self._unsent += wire.encode(message)
        self.flush()

    def flush(self) -> None:
        """Send on what is left of earlier messages, as far as the socket takes it."""
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:  # nobody is there to hear it; `read` sees the end of the stream
            self._unsent.clear()

    @property
    def wants_to_send(self) -> bool:
        """Whether `flush` has something to do once the socket takes more."""
        return bool(self._unsent)

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
