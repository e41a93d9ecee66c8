"""What happened: what the event machine in `state/` is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.schema import (
    Allocation,
    Demand,
    Device,
    EarlyStop,
    Fate,
    Outcome,
    Placement,
    Study,
    Trial,
    TrialState,
    Variant,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySubmitted:
    """Trials to run. `demands` maps each of their stages' keys to what it asks for; `available_stages` the keys whose
    outputs already exist to the outcome they gave. A study that an earlier leader knew brings its trials as they were
    (those that are over or paused stay so) and is `announced`: the journal has it already."""

    at: float
    study: Study
    trials: tuple[Trial, ...]
    demands: Mapping[str, Demand]
    available_stages: Mapping[str, Outcome] = field(default_factory=dict)
    announced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRestored:
    """The ledger as an earlier leader left it; open lines are bundles that still run, until `LeaderLost` says that they
    don't. Lines of studies that are not known count as their `tenants`' use only; that maps study ids to tenants."""

    at: float
    ledger: tuple[Allocation, ...]
    tenants: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeJoined:
    """A node offers these devices, all free, and has `cpus` cores and `host_memory_bytes` to go with them."""

    at: float
    node_id: str
    devices: tuple[Device, ...]
    cpus: float = 0.0
    host_memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLost:
    """The node and every bundle on it are gone."""

    at: float
    node_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementsDecided:
    """A packing policy's answer to a snapshot. `bundle_ids` names the bundle of each placement."""

    at: float
    placements: tuple[Placement, ...]
    bundle_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStarted:
    """The bundle's processes are up and about to run the stage."""

    at: float
    bundle_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReported:
    """Series values of one step. `progress` is the fraction of the stage's budget (0 to 1)."""

    at: float
    bundle_id: str
    step: int
    metrics: Mapping[str, float]
    progress: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSaved:
    """The stage wrote a checkpoint of `step`: what it does from here on would be lost with its worker."""

    at: float
    bundle_id: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMeasured:
    """What the bundle really takes, after its first steps and whenever it grows: the most memory so far of one device
    [bytes], of the host in all [bytes], and the part of the time since its first step in which it kept the share of
    the device that it holds busy (0 to 1; None while nobody can say)."""

    at: float
    bundle_id: str
    memory_bytes: int
    host_memory_bytes: int
    utilisation: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryExceeded:
    """The bundle took more memory than it was given and was ended for it. `on_host`: of the host, not of a device.
    `used_bytes` is what it had or asked for when it was ended, `limit_bytes` what it was given."""

    at: float
    bundle_id: str
    used_bytes: int
    limit_bytes: int
    on_host: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCompleted:
    """The stage's output is committed, and its processes have ended or, in a stack, go on without it."""

    at: float
    bundle_id: str
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRaised:
    """The stage's own code raised. `error` holds the last lines of the traceback and of the output."""

    at: float
    bundle_id: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost:
    """The bundle's processes ended without an answer: killed, out of memory, unreachable. `blameless`: with all others,
    since their node, its agent or its forkserver went."""

    at: float
    bundle_id: str
    reason: str
    blameless: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStopped:
    """The bundle ended because a `Stop` asked it to."""

    at: float
    bundle_id: str
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HaltRequested:
    """These trials shall leave their devices at the next step boundary. `into`: PAUSED (to go on later), CANCELLED (no
    answer) or PRUNED (a policy had evidence). Trials that are over, or that can't become that, are left alone.

    With a `stop` it is a stopping policy that asks, to have them PAUSED; it leaves alone those of which a person has
    said what shall become of them. Those that it holds it may have PRUNED."""

    at: float
    trial_ids: tuple[str, ...]
    into: TrialState
    reason: str
    stop: EarlyStop | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRequested:
    """These trials shall wait for devices again if they are paused (`resume`) or, with `retry`, failed or cancelled.
    Trials that run, wait or are decided are left alone. With a `fate` it is a stopping policy that lets those go on
    that it holds, and only those; or that takes its verdict back of those that it has had finished."""

    at: float
    trial_ids: tuple[str, ...]
    retry: bool = False
    fate: Fate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialsAdded:
    """Further trials of a study that is known, ended or not: clones. The mappings are as `StudySubmitted` has them."""

    at: float
    trials: tuple[Trial, ...]
    demands: Mapping[str, Demand]
    available_stages: Mapping[str, Outcome] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialExtended:
    """A trial that neither runs nor waits (paused, completed, pruned, failed, cancelled) gets `variant` for its own,
    whose stages before the last are its old ones', and waits for that variant's last stage."""

    at: float
    trial_id: str
    variant: Variant
    demands: Mapping[str, Demand]
    available_stages: Mapping[str, Outcome] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionDecided:
    """These bundles shall checkpoint and make room at their next step boundary; their trials wait again. `counts`: it
    counts as one of the times that a trial may be preempted (it does not when the whole service stops)."""

    at: float
    bundle_ids: tuple[str, ...]
    reason: str
    counts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyForgotten:
    """Nobody needs to keep in mind a study that has ended: the store has it. Left alone while a trial of it is not
    over, or while it shares a line of the ledger with a study that is still open."""

    at: float
    study_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderLost:
    """Whoever led until `at` is gone, and every node and bundle with it. No attempt is counted against a stage."""

    at: float
    reason: str


BundleEvent = (
    BundleStarted
    | StageReported
    | StageSaved
    | StageMeasured
    | MemoryExceeded
    | StageCompleted
    | StageRaised
    | WorkerLost
    | BundleStopped
)

Event = (
    StudySubmitted
    | LedgerRestored
    | TrialsAdded
    | TrialExtended
    | StudyForgotten
    | NodeJoined
    | NodeLost
    | LeaderLost
    | PlacementsDecided
    | PreemptionDecided
    | HaltRequested
    | QueueRequested
    | BundleEvent
)

# What a bundle ends in: one of these, and nothing of it follows.
BUNDLE_ENDS = (StageCompleted, StageRaised, WorkerLost, MemoryExceeded, BundleStopped)
