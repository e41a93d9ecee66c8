"""The reasoning in words."""

from dataclasses import replace

import pytest

from cluster.simulated import Script
from orchestrator.control.outlook import NOBODY_SERVES
from orchestrator.control.views import explanation
from orchestrator.events import Launch, RecordStudy, RecordTrial
from orchestrator.interference import Bar
from orchestrator.report.times import when
from orchestrator.schema import CommandKind, DeviceKind, TrialState
from orchestrator.service.sharing_file import Sharing
from tests.unit.orchestrator.control.rigs import Rig, steady


def words(rig: Rig, trial_id: str) -> str:
    return "\n".join(explanation(rig.store, trial_id, rig.at))


@pytest.fixture
def packed() -> tuple[Rig, str]:
    """Both devices taken, three trials in the queue."""
    rig = Rig()
    study_id = rig.submit()
    rig.until(lambda: len(rig.loop.state.bundles) == 2)
    rig.cycle(5)
    return rig, study_id


def test_a_queued_trial_is_explained_from_its_history_to_its_expected_end(packed: tuple[Rig, str]) -> None:
    rig, study_id = packed
    text = words(rig, f"{study_id}-0003")
    for part in (
        "is trial 3 of study rl_vs_sft (tenant default, priority 0): sft, ",
        "queued: submitted",
        "Order: place 2 of 3 under ordering=fifo",
        "Before it: 1 of tenant default.",
        "ordering.max_wait_s=6.0 h",
        "Tenant default holds 2 device(s) and has no quota; this run asks for 1.",
        "It demands 1 device(s) with share 1 and",
        "node-a/cpu0: share 0 and",
        "until about",
        f"packing=best_fit finds no room before it: {study_id} #2 is the first",
        "preemption=least_lost asks nobody to leave for it. Of the bundles that run, 2 ",
        "Expected to start ",
        "of stages of the same shape, 0.5 s each: ",
        "the whole of stage main takes 20 s, in nine of ten cases 11 s to 36 s",
    ):
        assert part in text, part


def test_a_trial_that_shares_a_run_is_told_who_runs_it() -> None:
    rig = Rig()
    study_id = rig.submit()
    rig.cycle(20)
    text = words(rig, f"{study_id}-0001")
    assert "stage warmup (1 of 2), which trial 0 runs for all 5 that share it" in text
    assert "Expected" in text


def test_without_a_service_that_is_the_reason() -> None:
    rig = Rig()
    study_id = rig.submit()
    (first, *_, last) = explanation(rig.store, f"{study_id}-0001", rig.at + 60.0)
    assert first.startswith(f"{study_id}-0001 is trial 1")
    assert NOBODY_SERVES in last


def test_a_running_trial_tells_where_and_how_far_it_is(packed: tuple[Rig, str]) -> None:
    rig, study_id = packed
    text = words(rig, f"{study_id}-0000")
    assert "It runs stage sft on node-a/cpu" in text or "It runs stage main on node-a/cpu" in text
    assert "attempt 2, 0 times preempted" in text
    assert "Expected to end " in text


def test_a_preemption_shows_in_the_history_and_with_who_may_be_asked(packed: tuple[Rig, str]) -> None:
    rig, study_id = packed
    rig.ask(CommandKind.PAUSE, f"{study_id}-0000")
    rig.until(lambda: rig.store.trial(f"{study_id}-0000").state is TrialState.PAUSED)
    paused = words(rig, f"{study_id}-0000")
    assert "running -> paused: paused by anna" in paused
    assert f"`orchestrator resume {study_id}-0000` lets it go on" in paused
    rig.ask(CommandKind.RESUME, f"{study_id}-0000")
    rig.cycle()
    assert "paused -> queued: resumed" in words(rig, f"{study_id}-0000")


def test_a_run_of_higher_priority_is_told_who_would_leave_for_it() -> None:
    # Nobody leads while it is asked, so what would be decided is not decided yet.
    rig = Rig(config={"ordering": {"name": "priority", "max_wait_s": 3600.0}})
    rig.submit()
    rig.until(lambda: len(rig.loop.state.bundles) == 2)
    rig.cycle(45)
    study = rig.submission.new_study(rig.at)
    urgent = replace(study, study_id="urgent", priority=50, device_kind=DeviceKind.CPU, tenant="others")
    stages = (replace(rig.submission.variants[0].stages[0], key="urgent"),)
    variant = replace(rig.submission.variants[0], key="urgent", stages=stages)
    (trial,) = replace(rig.submission, variants=(variant,)).trials(urgent)
    rig.store.apply([RecordStudy(study=urgent), RecordTrial(trial=trial, was=None, at=rig.at)])
    text = words(rig, trial.trial_id)
    assert "Order: place 1 of 4 under ordering=priority, with priority 50" in text
    assert "packing=best_fit finds no room for it; it is the first that has none" in text
    assert "a study of tenant default #0 until about" in text
    assert rig.store.studies()[0].study_id not in text
    assert "preemption=least_lost would ask 1 bundle(s) to leave: " in text


def test_a_failed_trial_tells_why_and_what_would_do() -> None:
    def script(launch: Launch) -> Script:
        if launch.stage.name == "warmup":
            return steady(launch)
        return Script(duration_s=5.0, raises="Traceback\nValueError: boom", ends_at=0.5)

    rig = Rig(script=script)
    study_id = rig.submit()
    rig.finish(study_id)
    text = words(rig, f"{study_id}-0002")
    assert "It is over: failed" in text
    assert "Why: ValueError: boom" in text
    assert f"`orchestrator retry {study_id}-0002`" in text


def test_a_completed_trial_tells_what_it_reached_and_cost() -> None:
    rig = Rig()
    study_id = rig.submit()
    rig.finish(study_id)
    text = words(rig, f"{study_id}-0004")
    assert "It is over: completed" in text
    assert "100 % of its budget" in text
    assert "accuracy on held-out test problems is 50.0 %" in text


def test_a_tenant_beyond_its_limit_is_told_its_numbers() -> None:
    tenants = {"default": {"weight": 1.0, "quota": 1.0, "borrowing_limit": 0.0, "max_priority": 0}}
    rig = Rig(config={"tenants": {"name": "tight", "tenants": tenants}})
    study_id = rig.submit()
    rig.until(lambda: any(t.stage_index == 1 and t.state is TrialState.RUNNING for t in rig.store.trials(study_id)))
    text = words(rig, f"{study_id}-0001")
    assert "holds 1 device(s) of a quota of 1 (it borrows 0 and may borrow 0)" in text
    assert "It is held back: " in text


def test_an_unknown_trial_is_a_key_error() -> None:
    rig = Rig()
    with pytest.raises(KeyError):
        explanation(rig.store, "nobody", rig.at)


def test_a_kind_that_may_not_sit_beside_another_is_told_why_and_until_when() -> None:
    rig = Rig(
        "study=rl_vs_sft",
        "algorithm=sft",
        "seed=range(0,5)",
        "optimizer.lr=1e-3",
        "cluster.share_per_trial=0.5",
        "fusion=off",
    )
    study_id = rig.submit()
    rig.until(lambda: len(rig.loop.state.bundles) == 4)
    (waiting,) = [t for t in rig.store.trials(study_id) if t.state is TrialState.QUEUED]
    bar = Bar(kinds=("sft", "sft"), reason="too slow together", since=rig.at, until=rig.at + 1800.0)
    text = "\n".join(explanation(rig.store, waiting.trial_id, rig.at, Sharing(bars=(bar,))))
    assert f"; sft may not sit beside sft until {when(bar.until, rig.at)}: too slow together" in text
    assert "may not sit beside" not in words(rig, waiting.trial_id)


def test_what_took_more_memory_than_it_was_given_says_so_in_its_history() -> None:
    def greedy(launch: Launch) -> Script:
        return replace(steady(launch), needs_bytes=5 << 29)

    rig = Rig(
        "study=rl_vs_sft", "algorithm=sft", "seed=0", "optimizer.lr=1e-3", "cluster.share_per_trial=0.25", script=greedy
    )
    study_id = rig.submit()
    rig.until(lambda: bool(rig.loop.state.stages) and any(s.raises for s in rig.loop.state.stages.values()))
    text = words(rig, f"{study_id}-0000")
    took = "it took 2.50 GiB of device memory at its limit of 2.00"
    assert f"running -> queued: {took}: it waits for 3.00 (raise 1 of 3)" in text
