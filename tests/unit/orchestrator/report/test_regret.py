"""What early stopping cost, from the trials that were finished all the same."""

from dataclasses import replace
from random import Random
from statistics import fmean

import pytest
from scipy.stats import binomtest

from orchestrator.report.regret import pruning_regret, regret_lines, regret_metrics, wilson
from orchestrator.schema import EarlyStop, Fate, Trial, TrialState
from tests.unit.orchestrator.builders import stage, trials, variant

STOP = EarlyStop(policy="median", rung=1, confidence=0.95, gpu_seconds=4.0, why="stopped at 4 device-seconds")


def completed(*accuracies: float) -> list[Trial]:
    made = trials([variant(stage(f"main@{n}")) for n in range(len(accuracies))])
    return [
        replace(t, state=TrialState.COMPLETED, metrics={"accuracy": a, "dev_accuracy": a}, gpu_seconds=10.0)
        for t, a in zip(made, accuracies, strict=True)
    ]


def finished(one: Trial) -> Trial:
    return replace(one, stopped=replace(STOP, drawn=True, fate=Fate.FINISHING))


def test_a_study_in_which_nothing_was_stopped_has_no_regret() -> None:
    assert pruning_regret(completed(0.5, 0.6)) is None
    assert (regret_lines(None), regret_metrics(None)) == ([], {})


def test_it_counts_those_that_beat_the_best_of_those_that_were_never_stopped() -> None:
    first, second, *others = completed(0.6, 0.7, 0.5, 0.8, 0.9, 0.65)
    regret = pruning_regret([first, second, *map(finished, others)])
    assert regret is not None
    assert (regret["winner"], regret["finished"], regret["beaten"]) == (1, 4, 2)
    assert regret["chance"] == 0.5
    assert regret["size"] == pytest.approx((0.1 + 0.2) / 4)
    assert regret["largest"] == pytest.approx(0.2)
    assert regret["finishing_gpu_seconds"] == pytest.approx(4 * 6.0)


def test_the_size_is_bounded_by_the_interval_of_the_chance_and_what_the_winner_lacks() -> None:
    """Of leads that are drawn anew and anew, the mean of all lies below in 97.5 % of the draws or more."""
    random = Random(0)
    winner, leads = 0.7, [0.3 if n % 2 == 0 else -0.2 for n in range(200)]
    mean = fmean(max(0.0, lead) for lead in leads)
    held = 0
    for _ in range(400):
        drawn = [finished(t) for t in completed(*(winner + lead for lead in random.sample(leads, 10)))]
        alone = [replace(completed(winner)[0], trial_id="study-1-0099", number=99)]
        regret = pruning_regret([*alone, *drawn])
        assert regret is not None
        held += regret["size_high"] >= mean
    assert 0.97 * 400 <= held < 400


@pytest.mark.parametrize(("successes", "count"), [(0, 1), (0, 7), (3, 7), (7, 7), (50, 200)])
def test_its_interval_is_wilsons(successes: int, count: int) -> None:
    theirs = binomtest(successes, count).proportion_ci(method="wilson")
    ours = wilson(successes, count)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_while_none_is_finished_it_is_unknown_and_says_so() -> None:
    one, other = completed(0.6, 0.5)
    regret = pruning_regret([one, replace(other, state=TrialState.PRUNED, stopped=STOP)])
    assert regret is not None
    assert regret["chance"] is None
    assert "unknown" in regret_lines(regret)[1]
    assert "pruning_regret_chance" not in regret_metrics(regret)
    assert regret_metrics(regret)["experiments_stopped"] == 1.0


def test_who_was_promoted_or_ended_before_it_could_leave_was_not_stopped() -> None:
    one, other, third = completed(0.6, 0.7, 0.8)
    promoted = replace(other, stopped=replace(STOP, fate=Fate.PROMOTED))
    assert pruning_regret([one, promoted, replace(third, stopped=STOP)]) is None


def test_the_numbers_that_a_tracker_gets_are_those_of_the_report() -> None:
    one, other = completed(0.6, 0.9)
    regret = pruning_regret([one, finished(other)])
    metrics = regret_metrics(regret)
    assert (metrics["pruning_regret_chance"], metrics["pruning_regret_size"]) == (1.0, pytest.approx(0.3))
    assert any("1 of 1 finished ones beat the winner (#0)" in line for line in regret_lines(regret))
