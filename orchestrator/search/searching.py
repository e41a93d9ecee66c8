"""The search of one study: from what its trials show to the next variants."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.config import ConfigError
from orchestrator.schema import Study, Variant
from orchestrator.search.asking import Asking, budget
from orchestrator.search.points import Known, PointState
from orchestrator.sweep import Point, PointComposer

logger = logging.getLogger(__name__)

REFUSED_IN_A_ROW = 20
"""So many points that can't run, one after the other, end a search: hardly anything in its space can."""


class SearchStuck(Exception):
    """The sampler draws nothing that can run. The message names the last refusal."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The variants of new points, one per seed of each. `over`: there is nothing more to ask for."""

    variants: tuple[tuple[Variant, ...], ...]
    over: bool


class StudySearch:
    """Asks for further points of one study and composes them. One call at a time, from whichever thread."""

    def __init__(self, study: Study) -> None:
        self._config = study.config["search"]
        self._composer = PointComposer(study.overrides, study.sweep, study.config)
        self._asking = Asking(self._composer.space, self._config)
        self._budget = budget(self._composer.space, self._config)

    def further(self, known: Sequence[Known], count: int, at: float) -> Drawn:
        """The next `count` points after `known`, or fewer if the budget ends, as asked at `at` [s since the epoch].

        Raises SearchStuck, and ConfigError if the study's own config can't be composed any more.
        """
        known = list(known)
        found: list[tuple[Variant, ...]] = []
        while len(found) < count and len(known) < self._budget:
            point, variants = self._next(known)
            found.append(variants)
            known.append(
                Known(point=point, state=PointState.RUNNING, value=None, asked_at=at, ended_at=float("inf"), numbers=())
            )
        return Drawn(tuple(found), over=len(known) >= self._budget)

    def _next(self, known: Sequence[Known]) -> tuple[Point, tuple[Variant, ...]]:
        refused: list[Point] = []
        while True:
            try:
                point = self._asking.ask(known, refused)
            except LookupError as error:
                raise SearchStuck(str(error)) from error
            try:
                return point, self._composer.variants(point)
            except ConfigError as error:
                logger.info("%s can't run: %s", " ".join(point), error)
                refused.append(point)
                if len(refused) >= REFUSED_IN_A_ROW:
                    raise SearchStuck(f"{REFUSED_IN_A_ROW} points in a row can't run, the last one: {error}") from error
