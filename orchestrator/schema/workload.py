"""A recorded or generated workload, as the simulator takes it: which trials came when, and how long they ran."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.schema.resources import Demand, Node


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStage:
    """One stage of a trial: what it asks for, and how long it holds its devices when nothing slows it down [s].

    Stages of one trace with equal keys are one stage: it runs once, for all trials that need it. An empty key is a
    stage of its own. `phases` are the parts of its time by name ("rollout", "learn"); none are one part.
    """

    name: str
    demand: Demand
    duration_s: float
    key: str = ""
    phases: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceTrial:
    """One trial. `submitted_at` is in seconds from the start of the trace, `line` where it stands in the trace's
    `file` (0: nowhere)."""

    trial_id: str
    study_id: str
    submitted_at: float
    stages: tuple[TraceStage, ...]
    tenant: str = "default"
    priority: int = 0
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A workload and, where it is known, the cluster it ran on. `trials` are in order of submission; `skipped_rows`
    counts the rows of its files that were broken and left out; `file` is where the trials were read from."""

    name: str
    trials: Sequence[TraceTrial]
    nodes: tuple[Node, ...] = ()
    skipped_rows: int = 0
    file: str = ""
