"""What to do about it: what the event machine in `state/`, and whoever decides beside it, asks for."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.schema import (
    Allocation,
    Device,
    Outcome,
    Placement,
    Prediction,
    Stage,
    StageState,
    Study,
    Trial,
    TrialState,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordStudy:
    """Write the study as it now is; `finished` adds its final numbers and report files to the journal. `at`: when it
    changed [s since the epoch], by default when it ended or was submitted."""

    study: Study
    at: float | None = None
    finished: "StudyFinished | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFinished:
    """The throughput numbers and the report's files of a study that is over."""

    metrics: Mapping[str, float]
    artifacts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordTrial:
    """Write the trial as it now is, if its state is still `was`: a compare-and-set. `was` None: the trial is new.

    `track`: the journal should have it too (the state changed, not just the progress); `why` says what for.
    `at`: when it changed [s since the epoch].
    """

    trial: Trial
    was: TrialState | None
    at: float
    track: bool = True
    why: str = ""
    new_variant: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordStage:
    """Write the state of a stage output and, once completed, the outcome of its run."""

    stage: Stage
    state: StageState
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordAllocation:
    """Write a line of the ledger, opening it or closing it. A closed one never changes."""

    allocation: Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordMeasured:
    """Write what an open line of the ledger has used so far: see `Allocation`."""

    bundle_id: str
    peak_memory_bytes: int
    utilisation: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordDevices:
    """Write which devices there are: all of them, in place of those written before."""

    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPoint:
    """Add one point of a trial's series to the journal."""

    study_id: str
    trial_id: str
    step: int
    metrics: Mapping[str, float]
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordAnswer:
    """Answer a command."""

    command_id: int
    at: float
    ok: bool
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPredictions:
    """Keep when trials were expected to start and to end; of a trial the first prediction stays."""

    predictions: tuple[Prediction, ...]


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


Record = (
    RecordStudy
    | RecordTrial
    | RecordStage
    | RecordAllocation
    | RecordMeasured
    | RecordDevices
    | RecordPoint
    | RecordAnswer
    | RecordPredictions
)
Instruction = Record | Launch | Stop
