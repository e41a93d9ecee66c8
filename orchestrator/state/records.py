"""What the event machine keeps of stages and bundles."""

from dataclasses import dataclass, field, replace

from orchestrator.events import Launch
from orchestrator.schema import Allocation, Demand, Outcome, Request, Stage, StageState, Trial


@dataclass(slots=True)
class StageRecord:
    """A stage output, and who waits for it.

    `progress` is what a new run would start from (0 to 1), `lost` how many runs were lost with their worker. `request`
    caches what the stage asks for while it waits.
    """

    stage: Stage
    demand: Demand
    queued_at: float
    state: StageState = StageState.ABSENT
    outcome: Outcome = field(default_factory=Outcome)
    waiters: list[str] = field(default_factory=list)
    lost: int = 0
    progress: float = 0.0
    bundle_id: str = ""
    request: Request | None = None


@dataclass(slots=True)
class Bundle:
    """A launched program and what is known of it. `progress` is the fraction of its stage's budget, of which
    `saved_progress` has been safe since `saved_at`."""

    launch: Launch
    allocation: Allocation
    request: Request
    saved_at: float
    progress: float = 0.0
    saved_progress: float = 0.0
    stopping: bool = False
    preempted: bool = False


def past_stage(trial: Trial, record: StageRecord, *, reused: bool) -> Trial:
    """The trial behind a completed stage. Only the last stage's metrics are the trial's: what a warm-up reached is
    not what the variant reached."""
    last = trial.stage_index + 1 == len(trial.variant.stages)
    reused_stages = (*trial.reused_stages, record.stage.key) if reused else trial.reused_stages
    return replace(
        trial,
        stage_index=trial.stage_index + 1,
        progress=0.0,
        metrics=dict(record.outcome.metrics) if last else trial.metrics,
        reused_stages=reused_stages,
    )
