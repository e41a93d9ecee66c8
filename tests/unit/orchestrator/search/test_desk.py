"""Studies that are searched, through the scheduling loop: nobody waits for a batch, nothing is lost, it ends."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from orchestrator.events import Launch
from orchestrator.ports import LeaseLost
from orchestrator.report.searched import search_entry, search_line
from orchestrator.schema import CommandKind, TrialState
from orchestrator.search.asking import Asking
from orchestrator.search.points import Known, PointState, best_point, known_points
from tests.unit.orchestrator.rig import Rig
from tests.unit.orchestrator.search.searches import LR, lr_of, peak, scripted, searched, submit


def test_a_search_runs_its_budget_and_ends() -> None:
    rig = Rig(scripted())
    submit(rig, "search=random", "search.trials=7", LR)
    rig.run()
    assert rig.states() == [TrialState.COMPLETED] * 7
    assert len({lr_of(trial) for trial in rig.store.trials("study-1")}) == 7
    assert [trial.number for trial in rig.store.trials("study-1")] == list(range(7))


def test_a_search_for_what_no_trial_measures_ends_with_the_first_that_completes() -> None:
    """It would draw at random for as long as its budget lasts, and find nothing."""
    rig = Rig(scripted(), devices=2)
    submit(rig, "search=tpe", "search.trials=40", "search.ahead=2", "search.metric=dev_acuracy", LR)
    rig.run()
    trials = rig.store.trials("study-1")
    assert len(trials) <= 6
    entry = search_entry(rig.store.study("study-1"), trials)
    assert entry is not None
    asked = f"tpe asked {len(trials)} of 40 trials"
    why = "search.metric=dev_acuracy: no trial that completed measured it; there is: dev_accuracy"
    assert search_line(entry) == f"{asked}, and asks for no more ({why})"


def test_the_override_of_a_trial_reads_back_as_the_value_that_it_trains_with() -> None:
    rig = Rig(scripted())
    submit(rig, "search=tpe", "search.trials=12", LR)
    rig.run()
    for trial in rig.store.trials("study-1"):
        (text,) = [t for t in trial.variant.overrides if t.startswith("optimizer.lr=")]
        assert float(text.removeprefix("optimizer.lr=")) == lr_of(trial)


def test_points_are_asked_while_fewer_trials_wait_than_shall() -> None:
    rig = Rig(scripted(), devices=2)
    submit(rig, "search=random", "search.trials=40", "search.ahead=3", LR)
    rig.cycle_until(5.0)
    assert rig.loop.state.counts["study-1"][TrialState.RUNNING] == 2
    assert rig.loop.state.counts["study-1"][TrialState.QUEUED] == 3


def test_a_slow_trial_does_not_stop_the_asking() -> None:
    def slow_first(launch: Launch) -> float:
        return 10_000.0 if launch.trial_ids == ("study-1-0000",) else 10.0

    rig = Rig(scripted(duration_s=slow_first), devices=2)
    submit(rig, "search=tpe", "search.trials=20", LR)
    rig.cycle_until(300.0)
    states = rig.states()
    assert states[0] is TrialState.RUNNING
    assert states[1:] == [TrialState.COMPLETED] * 19


def test_every_point_is_run_with_the_same_seeds_and_told_their_mean() -> None:
    rig = Rig(scripted(lambda config: peak(config) + 0.01 * config["seed"]))
    submit(rig, "search=random", "search.trials=6", "seed=range(0,3)", LR)
    rig.run()
    trials = rig.store.trials("study-1")
    assert [trial.variant.seed for trial in trials] == [0, 1, 2, 0, 1, 2]
    known = known_points(rig.store.study("study-1"), trials)
    assert [point.value for point in known] == [
        pytest.approx(peak({"optimizer": {"lr": lr_of(trials[at])}, "algorithm": {"name": "sft"}}) + 0.01)
        for at in (0, 3)
    ]


def test_as_many_seeds_as_are_asked_for_follow_the_studys_own() -> None:
    rig = Rig(scripted())
    submit(rig, "search=random", "search.trials=4", "search.seeds=2", "seed=5", LR)
    rig.run()
    assert [trial.variant.seed for trial in rig.store.trials("study-1")] == [5, 6, 5, 6]


def test_algorithms_share_a_learning_rate_and_are_a_choice_of_it() -> None:
    rig = Rig(scripted())
    submit(rig, "search=random", "search.trials=10", "algorithm=sft,grpo", LR)
    rig.run()
    assert {trial.variant.algorithm for trial in rig.store.trials("study-1")} == {"sft", "grpo"}


def test_a_key_of_one_algorithm_only_is_drawn_for_that_and_told_with_it() -> None:
    rig = Rig(scripted(), devices=2)
    submit(rig, "search=tpe", "search.trials=8", "algorithm=sft,grpo", LR, "algorithm.clip_high=interval(0.1,0.4)")
    rig.run()
    trials = rig.store.trials("study-1")
    assert {trial.variant.algorithm for trial in trials} == {"sft", "grpo"}
    for trial in trials:
        drawn = any(text.startswith("algorithm.clip_high=") for text in trial.variant.overrides)
        assert drawn == (trial.variant.algorithm == "grpo")
    known = known_points(rig.store.studies()[0], trials)
    assert [point.state for point in known] == [PointState.COMPLETED] * 8


def test_a_space_that_is_used_up_ends_the_search_and_asks_nothing_twice() -> None:
    rig = Rig(scripted())
    submit(rig, "search=tpe", "search.trials=32", "optimizer.lr=1e-3,1e-2", "model.layers=range(1,4)")
    rig.run()
    assert len({trial.variant.key for trial in rig.store.trials("study-1")}) == 6
    assert len(rig.states()) == 6


def test_failed_trials_are_told_as_failed_and_the_search_goes_on() -> None:
    rig = Rig(scripted(raises=lambda launch: launch.trial_ids[0].endswith(("1", "3"))))
    submit(rig, "search=tpe", "search.trials=8", LR)
    rig.run()
    assert rig.states().count(TrialState.FAILED) == 2
    known = known_points(rig.store.study("study-1"), rig.store.trials("study-1"))
    assert [str(point.state) for point in known].count("failed") == 2


def test_a_cancelled_study_asks_for_nothing_more_and_is_over() -> None:
    rig = Rig(scripted())
    submit(rig, "search=random", "search.trials=40", LR)
    rig.cycle_until(15.0)
    rig.ask(CommandKind.CANCEL, "study-1")
    rig.run()
    assert TrialState.COMPLETED in rig.states()
    assert TrialState.CANCELLED in rig.states()
    assert len(rig.states()) < 12
    assert rig.store.study("study-1").halted == "cancelled"


def test_a_cancelled_trial_does_not_stop_the_others() -> None:
    rig = Rig(scripted())
    submit(rig, "search=random", "search.trials=8", LR)
    rig.cycle_until(5.0)
    rig.ask(CommandKind.CANCEL, "study-1-0001")
    rig.run()
    assert rig.states().count(TrialState.COMPLETED) == 7


def test_a_paused_study_asks_again_once_it_is_resumed() -> None:
    rig = Rig(scripted())
    submit(rig, "search=random", "search.trials=12", LR)
    rig.cycle_until(15.0)
    rig.ask(CommandKind.PAUSE, "study-1")
    rig.cycle_until(200.0)
    asked = len(rig.states())
    assert asked < 12
    assert not rig.loop.finished("study-1")
    rig.ask(CommandKind.RESUME, "study-1")
    rig.run()
    assert rig.states() == [TrialState.COMPLETED] * 12


def test_a_leader_that_takes_over_asks_what_the_one_before_would_have_asked() -> None:
    undisturbed = Rig(scripted(), devices=1)
    overrides = ("search=cmaes", "search.trials=16", "search.ahead=1", LR, "optimizer.beta1=interval(0.5,0.9)")
    submit(undisturbed, *overrides)
    undisturbed.run()

    first = Rig(scripted(), devices=1)
    submit(first, *overrides)
    first.cycle_until(75.0)
    second = Rig(scripted(), devices=1, store=first.store, start_at=first.cluster.now())
    with pytest.raises(LeaseLost):
        first.cycle_until(200.0)
    second.run()
    assert second.states() == [TrialState.COMPLETED] * 16
    expected = [trial.variant.overrides for trial in undisturbed.store.trials("study-1")]
    assert [trial.variant.overrides for trial in second.store.trials("study-1")] == expected


def test_a_search_whose_budget_was_asked_is_not_asked_again_by_the_next_leader() -> None:
    first = Rig(scripted())
    submit(first, "search=random", "search.trials=4", LR)
    first.cycle_until(5.0)
    assert len(first.states()) == 4
    second = Rig(scripted(), store=first.store, start_at=first.cluster.now())
    second.run()
    assert second.states() == [TrialState.COMPLETED] * 4


def test_a_search_that_can_not_be_composed_any_more_ends_with_what_it_has(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise LookupError("every point of the space was asked")

    rig = Rig(scripted())
    submit(rig, "search=random", "search.trials=9", "search.ahead=2", LR)
    rig.cycle_until(2.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Asking, "ask", broken)
        rig.run()
    assert "asks for no more trials" in caplog.text
    assert TrialState.QUEUED not in rig.states()


class _Held(ThreadPoolExecutor):
    """A thread whose work waits until it is let go."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self.gate = threading.Event()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        def later() -> Any:
            assert self.gate.wait(30.0)
            return fn(*args, **kwargs)

        return super().submit(later)


def test_a_cycle_does_not_wait_for_an_answer_and_the_study_stays_open() -> None:
    with _Held() as executor:
        rig = Rig(scripted(), searching=executor)
        submit(rig, "search=random", "search.trials=3", LR)
        rig.cycle_until(20.0)
        assert rig.states() == []
        assert not rig.loop.finished("study-1")
        executor.gate.set()
        rig.run(limit_s=1e9)
    assert rig.states() == [TrialState.COMPLETED] * 3


def test_a_question_that_a_pause_overtook_adds_nothing() -> None:
    with _Held() as executor:
        rig = Rig(scripted(), searching=executor)
        submit(rig, "search=random", "search.trials=3", LR)
        rig.cycle_until(2.0)
        rig.ask(CommandKind.PAUSE, "study-1")
        rig.cycle_until(4.0)
        executor.gate.set()
        executor.submit(lambda: None).result()
        rig.cycle_until(6.0)
        assert rig.states() == []


def test_tpe_finds_the_peak_more_often_than_random_at_equal_budget() -> None:
    def distance(sampler: str, seed: int) -> float:
        rig = Rig(scripted(), devices=1)
        submit(rig, f"search={sampler}", "search.trials=24", f"search.seed={seed}", "algorithm=sft,grpo", LR)
        rig.run()
        study = rig.store.study("study-1")
        best = best_point(known_points(study, rig.store.trials("study-1")), study.config["search"])
        assert isinstance(best, Known)
        return 1.0 - (best.value or 0.0)

    # A twentieth of a decade from the peak, out of four decades and two algorithms.
    found = {name: [distance(name, seed) < 0.015 for seed in range(5)] for name in ("tpe", "random")}
    assert sum(found["tpe"]) >= sum(found["random"]) + 2


def test_a_study_that_is_a_grid_gets_no_further_trials() -> None:
    assert searched("optimizer.lr=1e-3,1e-2").config["search"] == {"name": "grid"}
    rig = Rig()
    rig.submit(2)
    rig.run()
    assert len(rig.states()) == 2
