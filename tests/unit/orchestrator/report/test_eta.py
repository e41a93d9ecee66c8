"""Predicted against actual starts and ends."""

from dataclasses import replace

import pytest

from orchestrator.report.document import build_report
from orchestrator.report.eta import eta_errors
from orchestrator.report.table import eta_lines
from orchestrator.schema import Allocation, Prediction, Trial, TrialState
from tests.unit.orchestrator.report.studies import a_study, a_trial, ledger


def predicted(number: int, start_at: float, end_at: float, made_at: float = 100.0) -> Prediction:
    trial_id = f"study-1-{number:04d}"
    return Prediction(trial_id=trial_id, study_id="study-1", made_at=made_at, start_at=start_at, end_at=end_at)


def held(number: int, opened_at: float) -> Allocation:
    (line,) = ledger()
    return replace(line, bundle_id=f"{number}-{opened_at}", trial_ids=(f"study-1-{number:04d}",), opened_at=opened_at)


def ended(number: int, at: float) -> Trial:
    return a_trial(number, "sft", number, 0.5, ended_at=at)


def test_errors_are_absolute_and_relative_to_how_far_ahead_they_looked() -> None:
    trials = [ended(0, 200.0), ended(1, 230.0)]
    lines = [held(0, 112.0), held(1, 150.0)]
    errors = eta_errors(trials, lines, [predicted(0, 110.0, 210.0), predicted(1, 140.0, 200.0)])
    assert errors["predictions"] == 2
    assert (errors["start"]["mean_s"], errors["start"]["median_s"], errors["start"]["p90_s"]) == (6.0, 6.0, 10.0)
    assert (errors["end"]["mean_s"], errors["end"]["p90_s"]) == (20.0, 30.0)
    assert errors["start"]["mean_relative"] == pytest.approx((2 / 10 + 10 / 40) / 2)
    assert errors["end"]["p90_relative"] == pytest.approx(30 / 100)


def test_a_hold_before_the_prediction_is_not_the_start_that_was_predicted() -> None:
    errors = eta_errors([ended(0, 200.0)], [held(0, 90.0), held(0, 110.0)], [predicted(0, 110.0, 200.0)])
    assert errors["start"]["mean_s"] == 0.0


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.FAILED, TrialState.CANCELLED, TrialState.PRUNED])
def test_only_full_budgets_count_for_ends(state: TrialState) -> None:
    errors = eta_errors([replace(ended(0, 200.0), state=state)], [], [predicted(0, 110.0, 210.0)])
    assert (errors["end"]["count"], errors["end"]["mean_s"]) == (0, None)


def test_a_report_says_it_in_two_lines_and_nothing_where_nothing_was_predicted() -> None:
    trials, lines = [ended(0, 200.0)], [held(0, 112.0)]
    first, second = eta_lines(build_report(a_study(), trials, lines, 0.0, [predicted(0, 110.0, 210.0)]))
    assert "predicted starts of 1 trials were off by 2.0 s on average" in first
    assert "in the median 9 % of the time they looked ahead" in second
    assert eta_lines(build_report(a_study(), trials, lines, 0.0)) == []
