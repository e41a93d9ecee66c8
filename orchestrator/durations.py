"""How long stages hold their devices, learned from those that ran or run. Pure.

A stage's expected hold is its steps times the seconds per step of the stages most like it: of the same *shape* (the
same config but for the optimizer's numbers, the seed and the length), else of the same algorithm, else of all.
"""

import json
from collections.abc import Hashable, Iterable

from orchestrator.schema import Stage

_EVERYTHING = "everything"
# The part of a stage's length that must have been observed before a prediction is kept.
_ENOUGH = 0.2


class Durations:
    """Seconds per step, by likeness. One observation per bundle: a later one of the same bundle replaces it."""

    def __init__(self) -> None:
        self._sums: dict[Hashable, tuple[float, float]] = {}
        self._observed: dict[str, tuple[Stage, float, float]] = {}
        self._likenesses: dict[str, tuple[Hashable, ...]] = {}
        self.revision = 0

    def observe(self, bundle_id: str, stage: Stage, steps: float, held_s: float) -> None:
        """`bundle_id` took `held_s` seconds for `steps` steps of a stage; nothing is learned from no step."""
        if steps <= 0.0:
            return
        if bundle_id in self._observed:
            self._add(*self._observed[bundle_id], sign=-1.0)
        self._observed[bundle_id] = (stage, steps, held_s)
        self._add(stage, steps, held_s, sign=1.0)
        self.revision += 1

    def expected_s(self, stage: Stage, left: float = 1.0) -> float | None:
        """Seconds that a run of the fraction `left` of the stage will take; None while nothing has been observed."""
        for likeness in self._likenesses_of(stage):
            steps, held_s = self._sums.get(likeness, (0.0, 0.0))
            if steps > 0.0:
                return held_s / steps * stage.budget_steps * left
        return None

    def knows(self, stage: Stage) -> bool:
        """Whether enough was seen of stages of its algorithm to hold somebody to what is expected of it: the first
        steps pay for the start of a stage and are no measure of the rest."""
        alike = tuple(self._likenesses_of(stage))[:-1]
        return any(self._sums.get(a, (0.0, 0.0))[0] >= _ENOUGH * stage.budget_steps for a in alike)

    def basis(self, stage: Stage) -> tuple[str, float, float] | None:
        """What `expected_s` goes by, in words, with the steps observed of that and the seconds per step."""
        words = ("stages of the same shape", "stages of the same algorithm", "all stages")
        for likeness, name in zip(self._likenesses_of(stage), words, strict=True):
            steps, held_s = self._sums.get(likeness, (0.0, 0.0))
            if steps > 0.0:
                return name, steps, held_s / steps
        return None

    def _add(self, stage: Stage, steps: float, held_s: float, *, sign: float) -> None:
        for likeness in self._likenesses_of(stage):
            old_steps, old_s = self._sums.get(likeness, (0.0, 0.0))
            self._sums[likeness] = (old_steps + sign * steps, old_s + sign * held_s)

    def _likenesses_of(self, stage: Stage) -> Iterable[Hashable]:
        """From the most to the least alike."""
        if stage.key not in self._likenesses:
            config = dict(stage.config)
            algorithm = {name: v for name, v in config.pop("algorithm", {}).items() if name != "max_steps"}
            shape = {name: v for name, v in config.items() if name not in ("optimizer", "seed")}
            text = json.dumps([stage.entrypoint, stage.name, algorithm, shape], sort_keys=True, default=str)
            kind = (stage.entrypoint, algorithm.get("name", stage.name))
            self._likenesses[stage.key] = (hash(text), kind, _EVERYTHING)
        return self._likenesses[stage.key]
