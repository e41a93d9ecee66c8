"""How good the estimates were, by the ledger."""

from dataclasses import replace

import pytest

from orchestrator.report import table
from orchestrator.report.document import build_report
from orchestrator.report.estimates import estimate_errors, estimate_metrics
from orchestrator.schema import Allocation, Trial
from tests.unit.orchestrator.report.studies import a_study, a_trial, ledger

MIB = 1 << 20


def ran(trial: Trial, *, hold_s: float = 10.0, **changes: object) -> Allocation:
    """The line of a trial's last stage."""
    line = replace(ledger(hold_s)[0], bundle_id=trial.trial_id, stage_key=trial.variant.stages[-1].key)
    return replace(line, trial_ids=(trial.trial_id,), **changes)


def expecting(expected_s: float) -> dict[str, float]:
    return {"expected_s": expected_s, "expected_low_s": expected_s / 1.5, "expected_high_s": expected_s * 1.5}


@pytest.fixture
def trials() -> list[Trial]:
    return [a_trial(number, "sft", number, 0.5) for number in range(3)]


def test_memory_is_compared_by_where_the_estimate_came_from(trials: list[Trial]) -> None:
    lines = [
        ran(trial, estimated_memory_bytes=estimate * MIB, peak_memory_bytes=peak * MIB, estimated_from=source)
        for trial, estimate, peak, source in zip(
            trials, (400, 115, 90), (100, 100, 100), ("first principles", "measured", "measured"), strict=True
        )
    ]
    errors = estimate_errors(trials, [*lines, ran(trials[0], closed_at=None), ran(trials[0])])
    assert errors["memory"] == {"runs": 3, "ratio_median": 1.15, "ratio_low": 0.9, "ratio_high": 4.0}
    assert [(part["source"], part["runs"]) for part in errors["memory_by_source"]] == [
        ("first principles", 1),
        ("measured", 2),
    ]


def test_a_hold_is_compared_with_what_was_expected_when_it_began(trials: list[Trial]) -> None:
    lines = [ran(trial, **expecting(e)) for trial, e in zip(trials, (10.0, 12.0, 20.0), strict=True)]
    assert estimate_errors(trials, lines)["duration"] == {
        "runs": 3,
        "error_median": pytest.approx(0.2),
        "error_worst": pytest.approx(1.0),
        "inside": pytest.approx(2 / 3),
    }


def test_of_a_stage_that_was_interrupted_only_the_last_run_counts(trials: list[Trial]) -> None:
    lost = replace(ran(trials[0], hold_s=3.0, **expecting(50.0)), bundle_id="lost", opened_at=0.0)
    errors = estimate_errors(trials, [lost, ran(trials[0], **expecting(10.0))])
    assert errors["duration"]["runs"] == 1
    assert errors["duration"]["error_worst"] == 0.0


def test_a_stage_that_is_not_done_does_not_count(trials: list[Trial]) -> None:
    running = replace(trials[0], stage_index=1)
    assert estimate_errors([running], [ran(running, **expecting(10.0))])["duration"]["runs"] == 0


def test_the_tracking_server_gets_what_is_known_and_nothing_else(trials: list[Trial]) -> None:
    assert estimate_metrics(estimate_errors(trials, ledger())) == {}
    known = ran(
        trials[0],
        estimated_memory_bytes=200,
        peak_memory_bytes=100,
        utilisation=0.75,
        **expecting(10.0),
    )
    assert estimate_metrics(estimate_errors(trials, [known])) == {
        "estimate_memory_ratio_p50": 2.0,
        "estimate_memory_ratio_worst": 2.0,
        "estimate_duration_error_p50": 0.0,
        "estimate_duration_inside": 1.0,
        "utilisation_mean": 0.75,
    }


def test_the_report_says_it_in_words(trials: list[Trial]) -> None:
    line = ran(
        trials[0],
        estimated_memory_bytes=115,
        peak_memory_bytes=100,
        estimated_from="measured",
        utilisation=0.9,
        **expecting(12.0),
    )
    document = build_report(a_study(), trials, [line], now=1e9)
    assert table.estimate_lines(document) == [
        "Memory, estimate (measured) / measured peak: 1.15 in 1 run.",
        "Duration, as expected at the start: off by 20 % in 1 run; 100 % within their 90 % interval.",
        "Utilisation: busy for 90 % of the share of devices held, in 1 run.",
    ]
    for text in table.estimate_lines(document):
        assert f"- {text}" in table.markdown(document)


def test_of_several_runs_it_says_the_median_and_the_worst(trials: list[Trial]) -> None:
    lines = [
        ran(
            trial,
            estimated_memory_bytes=ratio,
            peak_memory_bytes=100,
            estimated_from="measured",
            utilisation=busy,
            **expecting(expected_s),
        )
        for trial, ratio, busy, expected_s in zip(trials[:2], (110, 130), (0.8, 0.9), (12.0, 16.0), strict=True)
    ]
    assert table.estimate_lines(build_report(a_study(), trials, lines, now=1e9)) == [
        "Memory, estimate (measured) / measured peak: 1.20 in the median of 2 runs, from 1.10 to 1.30.",
        "Duration, as expected at the start: off by 40 % in the median of 2 runs, 60 % at worst; "
        "50 % within their 90 % interval.",
        "Utilisation: busy for 85 % of the share of devices held, in the mean of 2 runs.",
    ]


def test_without_a_measurement_the_report_has_no_such_section(trials: list[Trial]) -> None:
    assert "Estimates" not in table.markdown(build_report(a_study(), trials, ledger(), now=1e9))
