"""What the event machine keeps of stages and bundles."""

from dataclasses import dataclass, field, replace

from orchestrator.events import Launch
from orchestrator.schema import Allocation, Demand, Outcome, Request, Stage, StageState, Trial, TrialState


@dataclass(slots=True)
class StageRecord:
    """A stage output, and who waits for it.

    `progress` is what a new run would start from (0 to 1), `lost` how many runs were lost with their worker, `suspect`
    whether one of them may have been its own fault, `raises` how many were ended for their memory and got more.
    `needed` counts the known trials that have the stage in their variant. While it waits, `place` is its place in the
    queue and `request` caches what it asks for; `arrived` is whether it ever waited, `stated` whether a person said how
    much memory it takes. `fusion_key` is None until somebody has asked for it.
    """

    stage: Stage
    demand: Demand
    queued_at: float
    state: StageState = StageState.ABSENT
    outcome: Outcome = field(default_factory=Outcome)
    waiters: list[str] = field(default_factory=list)
    lost: int = 0
    suspect: bool = False
    raises: int = 0
    progress: float = 0.0
    bundle_id: str = ""
    needed: int = 0
    place: tuple[float, int, int] | None = None
    request: Request | None = None
    arrived: bool = False
    stated: bool = False
    fusion_key: str | None = None


@dataclass(slots=True)
class Bundle:
    """A launched program and what is known of it. `progress` is the fraction of its stage's budget, of which
    `saved_progress` has been safe since `saved_at`. `paced_from`: a step, and when it was reported [s]. `width`: how
    many its program had when it came, itself and those that came at once included."""

    launch: Launch
    allocation: Allocation
    request: Request
    saved_at: float
    progress: float = 0.0
    saved_progress: float = 0.0
    stopping: bool = False
    stop_reason: str = ""
    preempted: bool = False
    paced_from: tuple[int, float] | None = None
    width: int = 1


def past_stage(trial: Trial, record: StageRecord, at: float, *, reused: bool, gpu_seconds: float = 0.0) -> Trial:
    """The trial behind a completed stage, charged `gpu_seconds` for it; completed if it was the last one. Only the last
    stage's metrics are the trial's: what a warm-up reached is not what the variant reached."""
    last = trial.stage_index + 1 == len(trial.variant.stages)
    return replace(
        trial,
        state=TrialState.COMPLETED if last else trial.state,
        stage_index=trial.stage_index + 1,
        progress=0.0,
        queued_at=at if last else trial.queued_at,
        ended_at=at if last else trial.ended_at,
        metrics=dict(record.outcome.metrics) if last else trial.metrics,
        reused_stages=(*trial.reused_stages, record.stage.key) if reused else trial.reused_stages,
        gpu_seconds=trial.gpu_seconds + gpu_seconds,
        stage_gpu_seconds=trial.stage_gpu_seconds + gpu_seconds if last else 0.0,
    )
