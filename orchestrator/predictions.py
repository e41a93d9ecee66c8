"""When trials were first expected to start and to end, kept so that a report can say how good the expectation was."""

import time
from collections.abc import Iterable, Sequence

from orchestrator.events import Instruction, RecordPredictions
from orchestrator.forecast import forecast, width_of
from orchestrator.schema import Prediction, Request, Trial, TrialState
from orchestrator.state import SchedulerState

# Forecasts are made for the queue as a whole; their cost is kept below this part of the time.
FORECAST_EVERY_S, FORECAST_PART = 2.0, 0.02


class Predictions:
    """Those made so far. A trial is predicted once."""

    def __init__(self, state: SchedulerState) -> None:
        self._state = state
        self._predicted: set[str] = set()
        self._due_at = 0.0

    def know(self, trial_ids: Iterable[str]) -> None:
        """These trials were predicted by an earlier leader."""
        self._predicted.update(trial_ids)

    def forget(self, trial_ids: Iterable[str]) -> None:
        """Nobody asks for these trials any more."""
        self._predicted.difference_update(trial_ids)

    def of(self, waiting: Sequence[Request], now: float) -> list[Instruction]:
        """What is expected at `now` [s since the epoch] of trials that wait and of which enough is known, if some of
        them were never predicted and the last forecast is long enough ago."""
        if now < self._due_at or all(self._predicted.issuperset(r.trial_ids) for r in waiting):
            return []
        started = time.perf_counter()
        expected = forecast(self._state, waiting, now)
        cost_s = time.perf_counter() - started
        self._due_at = now + max(FORECAST_EVERY_S, cost_s / FORECAST_PART)
        widths = {trial_id: width_of(self._state, r) for r in waiting for trial_id in r.trial_ids}
        predictions = tuple(
            Prediction(
                trial_id=trial_id,
                study_id=self._state.trials[trial_id].study_id,
                made_at=now,
                start_at=expectation.start_at,
                end_at=expectation.end_at,
            )
            for trial_id, expectation in expected.items()
            if trial_id not in self._predicted
            and expectation.start_at is not None
            and self._is_known(self._state.trials[trial_id], widths.get(trial_id, 1))
        )
        self.know(prediction.trial_id for prediction in predictions)
        return [RecordPredictions(predictions=predictions)] if predictions else []

    def _is_known(self, trial: Trial, width: int) -> bool:
        """`width`: of the program that its current stage will run in."""
        first, *later = trial.variant.stages[trial.stage_index :]
        durations = self._state.durations
        return (
            trial.state is TrialState.QUEUED and durations.knows(first, width) and all(map(durations.knows, later))
        )  # fmt: skip
