"""Predictions: when trials were first expected to start and to end."""

from orchestrator.events import RecordPredictions
from orchestrator.predictions import FORECAST_EVERY_S, Predictions
from orchestrator.schema import Prediction
from orchestrator.state import SchedulerState
from tests.unit.orchestrator.rig import Rig


def busy() -> SchedulerState:
    """Two devices, three trials behind one warm-up that is done: two of them run and have reported, one waits."""
    rig = Rig()
    rig.submit(3)
    rig.cycle_until(17.0)
    return rig.loop.state


def predicted(made: Predictions, state: SchedulerState, now: float) -> list[Prediction]:
    records = made.of(state.snapshot(now).queue, now)
    return [p for record in records if isinstance(record, RecordPredictions) for p in record.predictions]


def test_a_trial_that_waits_is_predicted_once() -> None:
    state = busy()
    made = Predictions(state)
    (prediction,) = predicted(made, state, 18.0)
    assert (prediction.trial_id, prediction.made_at) == ("study-1-0002", 18.0)
    assert prediction.start_at is not None
    assert 18.0 < prediction.start_at < prediction.end_at
    assert predicted(made, state, 100.0) == []


def test_who_was_predicted_by_an_earlier_leader_is_not_predicted_again_until_it_is_forgotten() -> None:
    state = busy()
    made = Predictions(state)
    made.know(["study-1-0002"])
    assert predicted(made, state, 18.0) == []
    made.forget(["study-1-0002"])
    assert len(predicted(made, state, 18.0)) == 1


def test_the_next_forecast_is_made_a_while_after_the_last() -> None:
    state = busy()
    made = Predictions(state)
    predicted(made, state, 18.0)
    made.forget(["study-1-0002"])
    assert predicted(made, state, 18.0 + FORECAST_EVERY_S / 2) == []
    assert len(predicted(made, state, 18.0 + 60.0)) == 1
