"""Keeps the studies that are searched supplied with trials: asks for more before the last ones have begun.

Nobody waits for a batch: a trial that is over is told with the next question, and a question follows as soon as fewer
trials wait than shall. Asking and composing take tens of milliseconds, and under `gp` a second: an executor does it, at
most `ASKED_AT_ONCE` points a question and one question a study at a time, so a cycle costs the same with or without.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestrator.config import ConfigError
from orchestrator.estimate import stage_demands
from orchestrator.events import Instruction, TrialsAdded
from orchestrator.ports import Clock, StoreUnavailable
from orchestrator.schema import DeviceKind, Outcome, Study, Trial, TrialState, Variant
from orchestrator.search.points import is_search, known_points, unmeasured
from orchestrator.search.searching import Drawn, SearchStuck, StudySearch
from orchestrator.state import SchedulerState

logger = logging.getLogger(__name__)

T = TypeVar("T")

ASKED_AT_ONCE = 4
"""So many points are asked for in one question at most."""


class InThisThread(Executor):
    """Carries out what is submitted before it returns: for simulations and tests, where nothing else happens then."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass(slots=True)
class _Searched:
    """A study in mind. `asked_at`: when its open question was put."""

    search: StudySearch | None = None
    question: Future[Drawn] | None = None
    asked_at: float = 0.0
    over: bool = False


class SearchDesk:
    """Says which trials are added to the studies that are searched.

    `outputs_at_hand`: the completed stages among some keys, with their outcomes; may raise StoreUnavailable.
    """

    def __init__(
        self,
        state: SchedulerState,
        clock: Clock,
        outputs_at_hand: Callable[[Iterable[str]], Mapping[str, Outcome]],
        executor: Executor,
    ) -> None:
        self._state = state
        self._clock = clock
        self._outputs_at_hand = outputs_at_hand
        self._executor = executor
        self._searched: dict[str, _Searched] = {}

    def further(self, touched: Iterable[str]) -> list[Instruction]:
        """What follows from the answers that are there. `touched`: studies in which something has changed."""
        for study_id in touched:
            study = self._state.studies.get(study_id)
            if study is not None and study.ended_at is None and is_search(study):
                self._searched.setdefault(study_id, _Searched())
        instructions: list[Instruction] = []
        for study_id, searched in list(self._searched.items()):
            study = self._state.studies.get(study_id)
            if study is None or study.ended_at is not None:
                del self._searched[study_id]
                continue
            self._ask(study, searched)
            if searched.question is not None and searched.question.done():
                instructions += self._take_in(study, searched)
        return instructions

    def asks_more(self, study_id: str) -> bool:
        """Whether trials may yet be added to the study, so that it is not over with those that it has."""
        searched, study = self._searched.get(study_id), self._state.studies[study_id]
        cancelled = study.halted == TrialState.CANCELLED
        return is_search(study) and not cancelled and (searched is None or not searched.over)

    def _ask(self, study: Study, searched: _Searched) -> None:
        waiting = self._state.counts[study.study_id][TrialState.QUEUED]
        lacking = self._ahead(study) - waiting
        if searched.over or study.halted or searched.question is not None or lacking <= 0:
            return
        trials = self._state.study_trials(study.study_id)
        if why := unmeasured(study, trials):
            logger.warning("%s asks for no more trials: %s", study.study_id, why)
            searched.over = True
            self._state.touch(study.study_id)
            return
        known = known_points(study, trials)
        searched.asked_at = self._clock.now()
        count = min(lacking, ASKED_AT_ONCE)

        def answer() -> Drawn:
            if searched.search is None:
                searched.search = StudySearch(study)
            return searched.search.further(known, count, searched.asked_at)

        searched.question = self._executor.submit(answer)

    def _ahead(self, study: Study) -> int:
        """How many trials shall wait: enough for every device that becomes free at once, twice."""
        return int(study.config["search"]["ahead"]) or 2 * max(1, len(self._state.room.devices))

    def _take_in(self, study: Study, searched: _Searched) -> list[Instruction]:
        if study.halted or searched.question is None:  # what was drawn meanwhile is drawn again if it goes on
            searched.question = None
            return []
        try:
            drawn = searched.question.result()
            event = self._event(study, drawn, searched.asked_at)
        except StoreUnavailable:
            return []  # the answer is there: another cycle will do
        except (SearchStuck, ConfigError, OSError, ValueError) as error:
            # A search that can't go on must not stop the loop; what it has asked for still runs.
            logger.warning("%s asks for no more trials: %s", study.study_id, error)
            drawn, event = Drawn((), over=True), None
        searched.question = None
        if drawn.over:
            searched.over = True
            self._state.touch(study.study_id)
        return [] if event is None else self._state.handle(event)

    def _event(self, study: Study, drawn: Drawn, asked_at: float) -> TrialsAdded | None:
        variants = [variant for of_point in drawn.variants for variant in of_point]
        if not variants:
            return None
        now = self._clock.now()
        number = 1 + max((trial.number for trial in self._state.study_trials(study.study_id)), default=-1)
        trials = tuple(
            Trial(
                trial_id=f"{study.study_id}-{number + position:04d}",
                study_id=study.study_id,
                number=number + position,
                variant=variant,
                submitted_at=asked_at,
                queued_at=now,
            )
            for position, variant in enumerate(variants)
        )
        stages = [stage for variant in variants for stage in variant.stages]
        demands = stage_demands(stages, study.config["cluster"], study.device_kind or DeviceKind.CPU)
        return TrialsAdded(at=now, trials=trials, demands=demands, available_stages=self._available(study, variants))

    def _available(self, study: Study, variants: Collection[Variant]) -> Mapping[str, Outcome]:
        """Outputs of earlier studies that may be taken over. What the machine knows of a stage already counts more."""
        keys = {stage.key for variant in variants for stage in variant.before_last} - set(self._state.stages)
        return self._outputs_at_hand(keys) if study.reuses_stages and keys else {}
