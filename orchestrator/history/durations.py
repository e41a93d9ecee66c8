"""How long stages hold their devices, learned from those that ran or run. Pure.

A member of a stack takes longer than a stage alone, and by how much is measured: what was seen among as many, rounded
to a power of two, counts. Where nobody was, the nearest width does, by the root of its ratio: half-way between a device
that does not feel further members and one that has to do all their work one after the other. How many doublings away
it was widens the interval, to about as much as lies between the two.
"""

import math
from dataclasses import replace

from orchestrator.history.likeness import OTHER_ALGORITHM, Likenesses
from orchestrator.history.observations import Expected, Observations
from orchestrator.schema import Stage

# The part of a stage's length that must have been observed before a prediction is kept.
_ENOUGH = 0.2
# Of a stack's shape: half as wide, or twice, is another matter.
_NEAR = 1.0


class Durations:
    """Seconds per step. One observation per bundle: a later one of the same bundle replaces it."""

    def __init__(self) -> None:
        self._likenesses = Likenesses()
        self._seen = Observations()

    @property
    def revision(self) -> int:
        """Changes whenever something was learned."""
        return self._seen.revision

    def observe(self, bundle_id: str, stage: Stage, steps: float, held_s: float, width: int = 1) -> None:
        """`bundle_id` took `held_s` seconds for `steps` steps of a stage, in a program that had `width` members when it
        came; nothing is learned from no step."""
        likeness = self._likenesses.of(stage, width=_power(width))
        self._seen.observe(bundle_id, likeness, steps, held_s / _slower(width))

    def settle(self, bundle_id: str) -> None:
        """The bundle is over: what was observed of it stays."""
        self._seen.settle(bundle_id)

    def expected_s(self, stage: Stage, left: float = 1.0, width: int = 1) -> float | None:
        """Seconds that a run of the fraction `left` of the stage will take, in a program of `width` members. None while
        nothing has been observed, and for members of a stack nothing of their algorithm."""
        if width > 1:
            found = self.expected(stage, left, width)
            return None if found is None else found.value
        if not self._seen.revision:
            return None
        return self._seen.value(self._likenesses.of(stage), stage.budget_steps * left)

    def expected(self, stage: Stage, left: float = 1.0, width: int = 1) -> Expected | None:
        """The same with its interval and what it goes by [s]; `work` counts steps."""
        if not self._seen.revision:
            return None
        found = self._seen.expected(self._likenesses.of(stage, width=_power(width)), stage.budget_steps * left)
        if found is None or (width > 1 and found.distance >= OTHER_ALGORITHM):
            return None
        slower = _slower(width)
        return replace(
            found,
            value=found.value * slower,
            low=found.low * slower,
            high=found.high * slower,
            rate=found.rate * slower,
        )

    def knows(self, stage: Stage, width: int = 1) -> bool:
        """Whether enough was seen of stages of its algorithm, for a stack of stacks about as wide, to hold somebody to
        what is expected of it: the first steps pay for the start of a stage and are no measure of the rest."""
        found = self.expected(stage, width=width)
        if found is None or found.distance >= OTHER_ALGORITHM or (width > 1 and found.distance >= _NEAR):
            return False
        return found.work >= _ENOUGH * stage.budget_steps


def _power(width: int) -> int:
    """The power of two that is nearest by ratio."""
    return 1 << round(math.log2(width))


def _slower(width: int) -> float:
    """How many times longer a step is thought to take among so many than alone, before that is measured."""
    return math.sqrt(_power(width))
