"""What runs in the child of a forkserver: one rank of one bundle.

It resolves the stage's entrypoint, runs it with a channel that talks to the agent, commits the output (rank 0), and
sends exactly one answer: completed, stopped (the stage ended unfinished because it was asked to), exceeded (it asked
for memory beyond what it was given) or raised.
"""

import importlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cluster import wire
from cluster.memory import refused
from cluster.outputs import Artifacts
from orchestrator.schema import CUDA_CONTEXT_BYTES, Assignment, DeviceKind, Outcome

FLUSH_S = 0.25
"""Reports are sent at most this often [s]."""
TRACEBACK_LINES = 20
OUTPUT_LINES = 15
_LOG_TAIL_BYTES = 16_384


def resolve(entrypoint: str) -> Callable[..., Any]:
    """The object that `package.module:name` names. Raises ValueError, ImportError, AttributeError."""
    module, separator, name = entrypoint.partition(":")
    if not separator or not module or not name:
        raise ValueError(f"entrypoint {entrypoint!r} is not of the form package.module:function")
    target: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return target


class WorkerChannel:
    """A stage's channel over the socket to the agent. A gang's series are rank 0's; the other ranks only listen."""

    def __init__(self, connection: socket.socket, rank: int) -> None:
        self._connection = connection
        self._rank = rank
        self._reports: list[Mapping[str, Any]] = []
        self._flushed_at = 0.0
        self._incoming = wire.LineBuffer()
        self._stop = False

    def report(self, step: int, metrics: Mapping[str, float], progress: float) -> None:
        """See `experiments.channel.Channel`. Raises OSError if the agent is gone."""
        if self._rank == 0:
            values = {name: float(value) for name, value in metrics.items()}
            self._reports.append({"at": time.time(), "step": int(step), "metrics": values, "progress": float(progress)})
            self._flush_if_due()

    def saved(self, step: int) -> None:
        """See `experiments.channel.Channel`; told at once. Raises OSError if the agent is gone."""
        if self._rank == 0:
            self.flush()
            self._connection.sendall(wire.encode({"kind": "saved", "at": time.time(), "step": int(step)}))

    def measured(self, memory_bytes: int, host_memory_bytes: int, utilisation: float | None) -> None:
        """See `experiments.channel.Channel`; told at once, by every rank. Raises OSError if the agent is gone."""
        taken = {"memory_bytes": memory_bytes, "host_memory_bytes": host_memory_bytes, "utilisation": utilisation}
        self._connection.sendall(wire.encode({"kind": "measured", "at": time.time(), **taken}))

    def stop_requested(self) -> bool:
        """See `experiments.channel.Channel`. An agent that is gone counts as a request."""
        self._flush_if_due()
        while not self._stop:
            try:
                data = self._connection.recv(4096, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            self._stop = not data or any(message["kind"] == "stop" for message in self._incoming.feed(data))
        return self._stop

    def flush(self) -> None:
        """Send what is buffered. Raises OSError if the agent is gone."""
        if self._reports:
            self._connection.sendall(wire.encode({"kind": "reports", "reports": self._reports}))
            self._reports = []
        self._flushed_at = time.monotonic()

    def _flush_if_due(self) -> None:
        if self._reports and time.monotonic() - self._flushed_at >= FLUSH_S:
            self.flush()


def run(connection: socket.socket, assignment: Assignment, artifacts: Artifacts, log: Path) -> int:
    """Run one rank to its answer; the exit status of the process (0: answered without an exception)."""
    channel = WorkerChannel(connection, assignment.rank)
    connection.sendall(wire.encode({"kind": "started", "at": time.time()}))
    try:
        _hold_to_share(assignment)
        outcome = resolve(assignment.stage.entrypoint)(assignment, channel)
        if not isinstance(outcome, Outcome):
            raise TypeError(f"{assignment.stage.entrypoint} returned {type(outcome).__name__} instead of an Outcome")
        outcome = replace(outcome, metrics={name: float(value) for name, value in outcome.metrics.items()})
        if outcome.finished and assignment.rank == 0:
            outcome = artifacts.commit(assignment.bundle_id, assignment.stage.key, outcome)
        answer = {"kind": "completed" if outcome.finished else "stopped", "outcome": wire.outcome_to_wire(outcome)}
        status = 0
    except BaseException as error:  # SystemExit and KeyboardInterrupt out of a stage are its failures too
        excess = refused(error, assignment.device_kind, assignment.memory_bytes, assignment.host_memory_bytes)
        traceback.print_exception(error)
        if excess is None:
            answer = {"kind": "raised", "error": describe_failure(error, log)}
        else:
            answer = {"kind": "exceeded", **asdict(excess)}
        status = 1
    channel.flush()
    connection.sendall(wire.encode({**answer, "at": time.time()}))
    return status


def describe_failure(error: BaseException, log: Path | None = None) -> str:
    """The last lines of the output, then those of the traceback; the very last one is the exception's own.

    The traceback begins below the caller's frame, with the stage's own.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    frames = error.__traceback__.tb_next if error.__traceback__ is not None else None
    lines = "".join(traceback.format_exception(type(error), error, frames)).rstrip().splitlines()
    return "\n".join([*(log_tail(log, OUTPUT_LINES) if log is not None else ()), *lines[-TRACEBACK_LINES:]])


def log_tail(log: Path, lines: int) -> list[str]:
    """The last `lines` lines of a log, without reading all of it; none if it can't be read."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _LOG_TAIL_BYTES))
            return stream.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


def _hold_to_share(assignment: Assignment) -> None:
    """Hold torch to the bundle's threads and, on a GPU, its allocator to the share's memory."""
    torch: Any = sys.modules.get("torch")
    if torch is None:  # a payload without torch; its own threads follow OMP_NUM_THREADS
        return
    torch.set_num_threads(assignment.threads)
    if assignment.device_kind is DeviceKind.CUDA and assignment.memory_bytes > 0:
        total = torch.cuda.get_device_properties(0).total_memory
        # What the context takes, the allocator neither holds nor counts.
        allocated = max(0, assignment.memory_bytes - CUDA_CONTEXT_BYTES)
        torch.cuda.set_per_process_memory_fraction(min(1.0, allocated / total), 0)
