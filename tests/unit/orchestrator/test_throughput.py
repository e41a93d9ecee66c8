import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.schema import Allocation, Trial, TrialState
from orchestrator.throughput import EXPLANATIONS, throughput
from tests.unit.orchestrator.builders import warm_started


def line(
    opened_at: float, closed_at: float | None, share: float = 1.0, devices: int = 1, busy_s: float = 0.0
) -> Allocation:
    return Allocation(
        bundle_id="b",
        study_id="study-1",
        stage_key="k",
        trial_ids=("t",),
        device_ids=tuple(f"d{n}" for n in range(devices)),
        share=share,
        opened_at=opened_at,
        closed_at=closed_at,
        busy_s=busy_s,
    )


def a_trial(state: TrialState, stage_index: int = 0, progress: float = 0.0, reused: int = 0) -> Trial:
    trial = warm_started(1)[0]
    keys = tuple(stage.key for stage in trial.variant.stages[:reused])
    return replace(trial, state=state, stage_index=stage_index, progress=progress, reused_stages=keys)


TRIALS = st.builds(
    a_trial,
    state=st.sampled_from(TrialState),
    stage_index=st.integers(0, 2),
    progress=st.floats(0, 1),
    reused=st.integers(0, 2),
)
LINES = st.builds(
    line,
    opened_at=st.floats(0, 1e6),
    closed_at=st.none() | st.floats(0, 2e6),
    share=st.floats(0.01, 1),
    devices=st.integers(1, 8),
    busy_s=st.floats(0, 1e6),
)


def test_two_decided_trials_on_half_a_device_each_for_an_hour_are_two_per_gpu_hour() -> None:
    trials = [a_trial(TrialState.COMPLETED, stage_index=2), a_trial(TrialState.PRUNED, stage_index=1)]
    numbers = throughput(trials, [line(0, 3600, share=0.5, busy_s=1800)] * 2, now=9e9)
    assert numbers["gpu_hours_held"] == 1.0
    assert numbers["gpu_hours_busy"] == 0.5
    assert numbers["experiments_per_gpu_hour"] == 2.0
    assert numbers["experiments_completed"] == 1.0
    # The pruned one has its warm-up: 10 of 40 steps.
    assert numbers["completed_equivalent_per_gpu_hour"] == pytest.approx(1.25)


def test_an_open_line_counts_up_to_now() -> None:
    assert throughput([], [line(0, None, devices=2)], now=1800)["gpu_hours_held"] == 1.0


def test_a_reused_stage_is_shown_apart() -> None:
    numbers = throughput([a_trial(TrialState.COMPLETED, stage_index=2, reused=1)], [line(0, 3600)], now=0)
    assert numbers["completed_equivalent_reused"] == pytest.approx(0.25)
    assert numbers["stages_reused"] == 1.0


@pytest.mark.parametrize("state", [TrialState.FAILED, TrialState.CANCELLED, TrialState.RUNNING])
def test_what_gave_no_answer_is_not_decided(state: TrialState) -> None:
    assert throughput([a_trial(state)], [line(0, 3600)], now=0)["experiments_decided"] == 0.0


@given(st.lists(TRIALS, max_size=8))
def test_nothing_held_gives_rates_of_zero(trials: list[Trial]) -> None:
    numbers = throughput(trials, [], now=1e6)
    assert numbers["experiments_per_gpu_hour"] == numbers["completed_equivalent_per_gpu_hour"] == 0.0


@given(st.lists(TRIALS, max_size=8), st.lists(LINES, max_size=8), st.floats(0, 3e6))
def test_every_metric_is_finite_non_negative_and_explained(
    trials: list[Trial], lines: list[Allocation], now: float
) -> None:
    numbers = throughput(trials, lines, now)
    assert list(numbers) == list(EXPLANATIONS)
    assert all(math.isfinite(value) and value >= 0.0 for value in numbers.values())


@given(st.lists(TRIALS, max_size=8), st.lists(LINES, min_size=1, max_size=4), st.floats(0, 3e6))
def test_order_does_not_matter_and_twice_everything_is_the_same_rate(
    trials: list[Trial], lines: list[Allocation], now: float
) -> None:
    once = throughput(trials, lines, now)
    assert throughput(trials[::-1], lines[::-1], now) == pytest.approx(once)
    twice = throughput(trials * 2, lines * 2, now)
    for name, value in once.items():
        factor = 1.0 if name.endswith("per_gpu_hour") else 2.0
        assert twice[name] == pytest.approx(factor * value)


@given(st.lists(TRIALS, max_size=8), st.lists(LINES, min_size=1, max_size=4), st.floats(0, 3e6))
def test_the_rates_times_the_hours_are_the_counts(trials: list[Trial], lines: list[Allocation], now: float) -> None:
    numbers = throughput(trials, lines, now)
    if numbers["gpu_hours_held"] > 1e-9:
        decided = numbers["experiments_per_gpu_hour"] * numbers["gpu_hours_held"]
        assert decided == pytest.approx(numbers["experiments_decided"])
        assert numbers["experiments_completed"] <= numbers["experiments_decided"]


def test_hours_in_stacks_are_shown_apart() -> None:
    seats = [replace(line(0, 3600, share=0.25), stack_id="stack")] * 3
    numbers = throughput([], [*seats, line(0, 3600)], now=0)
    assert (numbers["gpu_hours_held"], numbers["gpu_hours_fused"]) == (1.75, 0.75)


def test_a_seat_that_was_left_vacant_is_held_by_those_who_are_still_in_the_stack() -> None:
    stays, leaves = (
        replace(line(0, end, share=0.5), bundle_id=name, stack_id="stack") for name, end in (("a", 7200), ("b", 3600))
    )
    numbers = throughput([a_trial(TrialState.COMPLETED, stage_index=2)], [stays, leaves], now=9e9)
    assert numbers["gpu_hours_vacated"] == pytest.approx(0.5)
    assert numbers["gpu_hours_held"] == numbers["gpu_hours_fused"] == pytest.approx(2.0)
    assert numbers["experiments_per_gpu_hour"] == pytest.approx(0.5)


def test_what_others_took_of_a_vacated_seat_is_theirs() -> None:
    stays, leaves = (
        replace(line(0, end, share=0.5), bundle_id=name, stack_id="stack") for name, end in (("a", 7200), ("b", 3600))
    )
    other = replace(line(3600, 7200, share=0.5), bundle_id="c", study_id="study-2")
    numbers = throughput([], [stays, leaves], now=9e9, beside=[other])
    assert (numbers["gpu_hours_held"], numbers["gpu_hours_vacated"]) == (1.5, 0.0)
