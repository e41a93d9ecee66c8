"""What a launch does in a simulated cluster, and how far it has come."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.events import Event, Launch
from orchestrator.schema import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What one launch will do.

    `duration_s` is for the whole stage, first step to last, when nothing slows it down; it may be infinite. An attempt
    that resumes takes its remaining part. `reports` are series values by step (0 to `Stage.budget_steps`). `saves` are
    the steps at which a checkpoint is written, from which the next attempt goes on. `outcome` is the answer of a
    completed run; its `busy_s` is replaced by the time the attempt ran. With `raises` (an error) or `loses` (a reason)
    the run ends so instead, once it has come to the fraction `ends_at` of the stage; and so does one that needs more
    memory of a device than it was given (`needs_bytes`).
    """

    duration_s: float
    reports: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    saves: Sequence[int] = ()
    outcome: Outcome = field(default_factory=Outcome)
    raises: str = ""
    loses: str = ""
    needs_bytes: int = 0
    ends_at: float = 1.0


Step = tuple[float, Callable[[], Event]]


@dataclass(slots=True, eq=False)
class Run:
    """A launched bundle that has not ended. It is at `step` at the time `at`, and goes on at `step_s` a step.

    `plan` holds what it will do, by step; the first item is on the agenda under the number `entry`.
    """

    launch: Launch
    script: Script
    step: float
    at: float
    step_s: float
    started_at: float
    plan: list[Step] = field(default_factory=list)
    entry: int = -1

    def time_of(self, step: float) -> float:
        """When the run comes to `step` [virtual seconds]."""
        return self.at if step <= self.step else self.at + (step - self.step) * self.step_s

    @property
    def exceeds(self) -> bool:
        """Whether it needs more memory than it was given."""
        return self.script.needs_bytes > self.launch.placement.memory_bytes

    @property
    def last_step(self) -> float:
        """Where it ends, well or badly."""
        steps = self.launch.stage.budget_steps
        return self.script.ends_at * steps if self.script.raises or self.script.loses or self.exceeds else steps
