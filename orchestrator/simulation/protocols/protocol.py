"""What a protocol is, and what it gets to see."""

import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.events import Event
from orchestrator.schema import Stage, Trace
from orchestrator.simulation.recorder import Recorder
from orchestrator.simulation.submissions import Submissions

# When something happens [s], and what it is once it does.
Arrival = tuple[float, Callable[[], Sequence[Event]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a protocol is made from. `capacity` is the number of devices there are; `recorder` knows what became of
    what arrived so far."""

    trace: Trace
    seed: int
    window: int
    capacity: int
    recorder: Recorder
    submissions: Submissions


class Protocol(typing.Protocol):
    """Made from a `Scene`."""

    # Whether the times are those of the work: else seconds only count arrivals, and mean nothing.
    timed: bool
    # Whether the packing knows the workload's demands beforehand, unless the config says otherwise.
    knows_demands: bool

    def __init__(self, scene: Scene) -> None: ...

    def arrivals(self) -> Iterator[Arrival]:
        """By time. Each is asked for, and then happens, after everything before it was decided."""

    def duration_s(self, stage: Stage) -> float:
        """How long a stage holds its devices when nothing slows it down [s]; may be infinite."""

    def results(self) -> Mapping[str, float]:
        """What only this protocol measures, by name."""
