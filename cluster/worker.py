"""What runs in the child of a forkserver: one rank of one bundle.

It resolves the stage's entrypoint, runs it with a channel that talks to the agent, commits the output (rank 0), and
sends exactly one answer: completed, stopped (the stage ended unfinished because it was asked to), exceeded (it asked
for memory beyond what it was given) or raised.
"""

import importlib
import os
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cluster import wire
from cluster.agent_line import AgentLine, WorkerChannel
from cluster.memory import Excess, refused
from cluster.outputs import Artifacts
from orchestrator.schema import CUDA_CONTEXT_BYTES, Assignment, DeviceKind, Outcome

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


def run(connection: socket.socket, assignment: Assignment, artifacts: Artifacts, log: Path) -> int:
    """Run one rank to its answer; the exit status of the process (0: answered without an exception)."""
    line, bundle_id = AgentLine(connection), assignment.bundle_id
    line.tell({"kind": "started", "bundle_id": bundle_id})
    try:
        hold_threads(assignment.threads)
        hold_memory(assignment.device_kind, assignment.memory_bytes)
        channel = WorkerChannel(line, bundle_id, assignment.rank, assignment.phase_dir)
        outcome = resolve(assignment.stage.entrypoint)(assignment, channel)
        if not isinstance(outcome, Outcome):
            raise TypeError(f"{assignment.stage.entrypoint} returned {type(outcome).__name__} instead of an Outcome")
        answer = answer_of(outcome, assignment, artifacts)
        status = 0
    except BaseException as error:  # SystemExit and KeyboardInterrupt out of a stage are its failures too
        excess = refused(error, assignment.device_kind, assignment.memory_bytes, assignment.host_memory_bytes)
        answer = failure_answer(error, excess, log)
        status = 1
    line.tell({**answer, "bundle_id": bundle_id})
    return status


def answer_of(outcome: Outcome, assignment: Assignment, artifacts: Artifacts) -> wire.Message:
    """What the agent is told of a stage's end; the output of one that finished is committed by its rank 0."""
    outcome = replace(outcome, metrics={name: float(value) for name, value in outcome.metrics.items()})
    if outcome.finished and assignment.rank == 0:
        outcome = artifacts.commit(assignment.bundle_id, assignment.stage.key, outcome)
    return {"kind": "completed" if outcome.finished else "stopped", "outcome": wire.outcome_to_wire(outcome)}


def failure_answer(error: BaseException, excess: Excess | None, log: Path) -> wire.Message:
    """What the agent is told of an error, which is printed too: the `excess` that it comes from, if it does."""
    traceback.print_exception(error)
    if excess is None:
        return {"kind": "raised", "error": describe_failure(error, log)}
    return {"kind": "exceeded", **asdict(excess)}


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


def hold_threads(threads: int) -> None:
    """Hold torch to so many; a payload without torch follows OMP_NUM_THREADS."""
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def hold_memory(kind: DeviceKind, memory_bytes: int) -> None:
    """Hold torch's allocator to so much of the GPU that the process sees, its context included. 0: as it is."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and kind is DeviceKind.CUDA and memory_bytes > 0:
        total = torch.cuda.get_device_properties(0).total_memory
        # What the context takes, the allocator neither holds nor counts.
        allocated = max(0, memory_bytes - CUDA_CONTEXT_BYTES)
        torch.cuda.set_per_process_memory_fraction(min(1.0, allocated / total), 0)
