"""What happened, and what to do about it: the two alphabets of the event machine in `state.py`.

Events carry `at` [seconds since the epoch], stamped by whoever saw them happen; the machine has no clock.
A *bundle* is one launched program: it runs one stage on one slice of devices for the trials that wait for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.schema import (
    Allocation,
    Demand,
    Device,
    Outcome,
    Placement,
    Stage,
    StageState,
    Study,
    Trial,
    TrialState,
)

# --- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySubmitted:
    """Trials to run. `demands` maps each of their stages' keys to what it asks for; `available_stages` the keys whose
    outputs already exist to the outcome they gave. A study that is resumed brings its trials as they were (those that
    are over stay so) and the closed `ledger` of its earlier life."""

    at: float
    study: Study
    trials: tuple[Trial, ...]
    demands: Mapping[str, Demand]
    available_stages: Mapping[str, Outcome] = field(default_factory=dict)
    ledger: tuple[Allocation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeJoined:
    """A node offers these devices, all free."""

    at: float
    node_id: str
    devices: tuple[Device, ...]


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
class StageCompleted:
    """The stage's output is committed and its processes have ended."""

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
    """The bundle's processes ended without an answer: killed, out of memory, unreachable."""

    at: float
    bundle_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStopped:
    """The bundle ended because a `Stop` asked it to."""

    at: float
    bundle_id: str
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRequested:
    """These trials shall end before their budget. `into`: CANCELLED (no answer) or PRUNED (a policy had evidence)."""

    at: float
    trial_ids: tuple[str, ...]
    into: TrialState
    reason: str


Event = (
    StudySubmitted
    | NodeJoined
    | NodeLost
    | PlacementsDecided
    | BundleStarted
    | StageReported
    | StageCompleted
    | StageRaised
    | WorkerLost
    | BundleStopped
    | EndRequested
)

BundleEvent = BundleStarted | StageReported | StageCompleted | StageRaised | WorkerLost | BundleStopped

# --- instructions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordStudy:
    """Write the study as it now is."""

    study: Study


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordTrial:
    """`track`: the tracker should hear of it too (the state changed, not just the progress)."""

    trial: Trial
    track: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordStage:
    """Write the state of a stage output and, once completed, the outcome of its run."""

    stage: Stage
    state: StageState
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordAllocation:
    """Write a line of the ledger, open or closed."""

    allocation: Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Start a bundle: `stage` on `placement` for `trial_ids`; `devices` are the placement's, in its order."""

    bundle_id: str
    study_id: str
    stage: Stage
    trial_ids: tuple[str, ...]
    placement: Placement
    devices: tuple[Device, ...]
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """End a bundle at its next step boundary; it answers with `BundleStopped`."""

    bundle_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackMetrics:
    """One point of a trial's series."""

    trial_id: str
    step: int
    metrics: Mapping[str, float]
    at: float


Record = RecordStudy | RecordTrial | RecordStage | RecordAllocation
Instruction = Record | Launch | Stop | TrackMetrics
