"""How an agent, its forkserver and its workers talk: one JSON object per line over Unix sockets.

agent -> forkserver   spawn (one file descriptor rides along), kill
forkserver -> agent   ready | failed, then spawned, exited
agent -> worker       stop, of a bundle; to the program of a stack also join, with the assignment of a new member
worker -> agent       of a bundle: started, reports, saved, measured, then one answer: completed | stopped | exceeded |
                      raised; of the program of a stack as a whole: exceeded | raised without a bundle's id
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from cluster.memory import Excess
from orchestrator.schema import Assignment, DeviceKind, Outcome, Stage

Message = dict[str, Any]


def encode(message: Mapping[str, Any]) -> bytes:
    """One line. Raises TypeError for what JSON can't say."""
    return json.dumps(message, separators=(",", ":"), default=_plain).encode() + b"\n"


class LineBuffer:
    """Cuts a byte stream into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes, oldest first."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


def assignment_to_wire(assignment: Assignment) -> Message:
    """Plain data that `assignment_from_wire` turns back."""
    message = {f.name: getattr(assignment, f.name) for f in fields(Assignment)}
    message["stage"] = {f.name: getattr(assignment.stage, f.name) for f in fields(Stage)}
    return message


def assignment_from_wire(message: Mapping[str, Any]) -> Assignment:
    """Raises TypeError for fields that `Assignment` lacks."""
    data = dict(message)
    data["stage"] = Stage(**data["stage"])
    data["device_kind"] = DeviceKind(data["device_kind"])
    data["device_indexes"] = tuple(data["device_indexes"])
    return Assignment(**data)


def outcome_to_wire(outcome: Outcome) -> Message:
    """Plain data that `outcome_from_wire` turns back; metrics become floats."""
    message = {f.name: getattr(outcome, f.name) for f in fields(Outcome)}
    message["metrics"] = {name: float(value) for name, value in outcome.metrics.items()}
    return message


def outcome_from_wire(message: Mapping[str, Any]) -> Outcome:
    """Raises TypeError for fields that `Outcome` lacks."""
    return Outcome(**message)


def excess_from_wire(message: Mapping[str, Any]) -> Excess:
    """Of an answer `exceeded`."""
    used, limit = int(message["used_bytes"]), int(message["limit_bytes"])
    return Excess(used_bytes=used, limit_bytes=limit, on_host=bool(message["on_host"]))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} can't be sent to a worker; stage configs are plain data")
