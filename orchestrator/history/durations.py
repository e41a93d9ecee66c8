"""How long stages hold their devices, learned from those that ran or run. Pure."""

from orchestrator.history.likeness import OTHER_ALGORITHM, Likenesses
from orchestrator.history.observations import Expected, Observations
from orchestrator.schema import Stage

# The part of a stage's length that must have been observed before a prediction is kept.
_ENOUGH = 0.2


class Durations:
    """Seconds per step. One observation per bundle: a later one of the same bundle replaces it."""

    def __init__(self) -> None:
        self._likenesses = Likenesses()
        self._seen = Observations()

    @property
    def revision(self) -> int:
        """Changes whenever something was learned."""
        return self._seen.revision

    def observe(self, bundle_id: str, stage: Stage, steps: float, held_s: float) -> None:
        """`bundle_id` took `held_s` seconds for `steps` steps of a stage; nothing is learned from no step."""
        self._seen.observe(bundle_id, self._likenesses.of(stage), steps, held_s)

    def settle(self, bundle_id: str) -> None:
        """The bundle is over: what was observed of it stays."""
        self._seen.settle(bundle_id)

    def expected_s(self, stage: Stage, left: float = 1.0) -> float | None:
        """Seconds that a run of the fraction `left` of the stage will take; None while nothing has been observed."""
        if not self._seen.revision:
            return None
        return self._seen.value(self._likenesses.of(stage), stage.budget_steps * left)

    def expected(self, stage: Stage, left: float = 1.0) -> Expected | None:
        """The same with its interval and what it goes by [s]; `work` counts steps."""
        if not self._seen.revision:
            return None
        return self._seen.expected(self._likenesses.of(stage), stage.budget_steps * left)

    def knows(self, stage: Stage) -> bool:
        """Whether enough was seen of stages of its algorithm to hold somebody to what is expected of it: the first
        steps pay for the start of a stage and are no measure of the rest."""
        found = self.expected(stage)
        if found is None or found.distance >= OTHER_ALGORITHM:
            return False
        return found.work >= _ENOUGH * stage.budget_steps
