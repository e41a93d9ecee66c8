"""At which resources trials are judged.

Rungs lie at `lowest` x `factor`^i of the resource, i = 0, 1, 2, ...: at the same places for every trial of every
algorithm, since what is compared must have cost the same. A trial's mark on a rung is its first evaluation between that
rung and the next one; one that was not evaluated in between has no mark there. Before its grace it has none at all: it
is neither judged nor is anybody judged by it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.schema import Evaluation, Trial

RESOURCES = ("device_seconds", "tokens", "steps")
GRACE_UNITS = ("budget", "resource")
OTHERS = "others"
"""The grace of algorithms that are not named."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a trial had reached on a rung and had `spent` by then. `level` counts the rungs since the first one beyond
    its grace, from 0; `looks` how many of them lie within its budget, so how often it may be judged in all."""

    evaluation: Evaluation
    spent: float
    level: int
    looks: int


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """resource: one of `RESOURCES`. lowest: the first rung [units of it]. grace: by algorithm, a fraction of the
    trial's budget of steps (`budget`) or in units of the resource (`resource`)."""

    resource: str
    lowest: float
    factor: int
    grace: Mapping[str, float]
    grace_unit: str

    def at(self, rung: int) -> float:
        """Where a rung lies [units of the resource]."""
        return self.lowest * float(self.factor**rung)

    def rung_of(self, spent: float) -> int:
        """The last rung at or below what was spent; -1 below the first."""
        return max(-1, math.floor(math.log(spent / self.lowest, self.factor) + 1e-9)) if spent > 0 else -1

    def marks(self, trial: Trial) -> dict[int, Mark]:
        """By rung."""
        stage = trial.variant.stages[-1]
        grace = self.grace.get(trial.variant.algorithm, self.grace.get(OTHERS, 0.0))
        found: dict[int, Mark] = {}
        for evaluation in trial.evaluations:
            spent, done = self._spent(evaluation), evaluation.step / stage.budget_steps
            rung = self.rung_of(spent)
            if rung < 0 or rung in found or (done if self.grace_unit == "budget" else spent) < grace:
                continue
            budget = spent / min(1.0, done) if done > 0 else spent
            since = grace * budget if self.grace_unit == "budget" else grace
            first = min(rung, max(0, math.ceil(math.log(max(since, self.lowest) / self.lowest, self.factor) - 1e-9)))
            looks = max(rung, self.rung_of(budget)) - first + 1
            found[rung] = Mark(evaluation, spent, rung - first, looks)
        return found

    def _spent(self, evaluation: Evaluation) -> float:
        if self.resource == "steps":
            return evaluation.step
        return evaluation.tokens if self.resource == "tokens" else evaluation.device_seconds
