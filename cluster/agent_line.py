"""The worker's end of the socket to its agent, and the channels of stages that talk over it."""

import select
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from cluster import wire
from cluster.phases import Gates
from orchestrator.schema import Assignment

FLUSH_S = 0.25
"""Reports are sent at most this often [s]."""


class AgentLine:
    """Says things of bundles to the agent, in order, and hears what it asks. Any thread may say something; one listens.

    `stops` are the bundles that were asked to stop, `joins` the new members of a stack, the first that came first.
    `gone`: the agent is; nobody hears anything any more.
    """

    def __init__(self, connection: socket.socket) -> None:
        """Takes the socket, a blocking one, over."""
        self._connection = connection
        self._speaking = threading.RLock()
        self._reports: dict[str, list[Mapping[str, Any]]] = {}
        self._flushed_at = 0.0
        self._incoming = wire.LineBuffer()
        self.stops: set[str] = set()
        self.joins: deque[Assignment] = deque()
        self.gone = False

    def report(self, bundle_id: str, step: int, metrics: Mapping[str, float], progress: float) -> None:
        """Soon; those of all bundles share a flush. Raises OSError if the agent is gone."""
        values = {name: float(value) for name, value in metrics.items()}
        report = {"at": time.time(), "step": int(step), "metrics": values, "progress": float(progress)}
        with self._speaking:
            self._reports.setdefault(bundle_id, []).append(report)
            self.flush_if_due()

    def tell(self, message: Mapping[str, Any]) -> None:
        """At once, behind the reports so far. Raises OSError if the agent is gone."""
        with self._speaking:
            self.flush()
            self._connection.sendall(wire.encode({**message, "at": time.time()}))

    def flush(self) -> None:
        """Send what is buffered. Raises OSError if the agent is gone."""
        with self._speaking:
            reports, self._reports = self._reports, {}
            messages = ({"kind": "reports", "bundle_id": name, "reports": those} for name, those in reports.items())
            lines = b"".join(map(wire.encode, messages))
            if lines:
                self._connection.sendall(lines)
                self._flushed_at = time.monotonic()

    def flush_if_due(self) -> None:
        """Send what is buffered if the last flush was long enough ago. Raises OSError if the agent is gone."""
        if self._reports and time.monotonic() - self._flushed_at >= FLUSH_S:
            self.flush()

    def listen(self, timeout_s: float = 0.0) -> None:
        """Take in what the agent has said; waits for something at most `timeout_s`."""
        if timeout_s > 0 and not self.gone:
            select.select([self._connection], [], [], timeout_s)
        while not self.gone:
            try:
                data = self._connection.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            self.gone = not data
            for message in self._incoming.feed(data):
                if message["kind"] == "stop":
                    self.stops.add(message["bundle_id"])
                elif message["kind"] == "join":
                    self.joins.append(wire.assignment_from_wire(message["assignment"]))


class WorkerChannel:
    """The channel of one bundle's stage. A gang's series are rank 0's; the other ranks only listen."""

    def __init__(self, line: AgentLine, bundle_id: str, rank: int, phase_dir: str = "") -> None:
        self._line = line
        self._bundle_id = bundle_id
        self._rank = rank
        self._gates = Gates(phase_dir)

    def report(self, step: int, metrics: Mapping[str, float], progress: float) -> None:
        """See `experiments.channel.Channel`. Raises OSError if the agent is gone."""
        if self._rank == 0:
            self._line.report(self._bundle_id, step, metrics, progress)

    def saved(self, step: int) -> None:
        """See `experiments.channel.Channel`; told at once. Raises OSError if the agent is gone."""
        if self._rank == 0:
            self._line.tell({"kind": "saved", "bundle_id": self._bundle_id, "step": int(step)})

    def measured(self, memory_bytes: int, host_memory_bytes: int, utilisation: float | None) -> None:
        """See `experiments.channel.Channel`; told at once, by every rank. Raises OSError if the agent is gone."""
        taken = {"memory_bytes": memory_bytes, "host_memory_bytes": host_memory_bytes, "utilisation": utilisation}
        self._line.tell({"kind": "measured", "bundle_id": self._bundle_id, **taken})

    def phase(self, name: str) -> AbstractContextManager[None]:
        """See `experiments.channel.Channel`. Raises OSError if the gate can't be opened."""
        return self._gates.through(name)

    def stop_requested(self) -> bool:
        """See `experiments.channel.Channel`. An agent that is gone counts as a request."""
        self._line.flush_if_due()
        self._line.listen()
        return self._line.gone or self._bundle_id in self._line.stops
