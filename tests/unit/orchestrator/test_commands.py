"""What people ask of trials, through the store and the loop, on the simulated cluster."""

from dataclasses import replace

import pytest

from orchestrator.schema import Command, CommandKind, Trial, TrialState, Variant
from orchestrator.variants import variant_from_data, variant_to_data
from tests.unit.orchestrator.builders import stage, variant
from tests.unit.orchestrator.rig import Rig

FIRST = "study-1-0000"


@pytest.fixture
def rig() -> Rig:
    """Two trials, 3 s into their last stages of 10 s; their checkpoints are written half-way."""
    rig = Rig()
    rig.submit(2)
    while [t.state for t in rig.store.trials("study-1") if t.stage_index == 1] != [TrialState.RUNNING] * 2:
        rig.cycle(0.5)
    rig.cycle_until(rig.cluster.now() + 3.0)
    return rig


def answered(rig: Rig, command_id: int, within_s: float = 2.0) -> Command:
    """The command once it is answered, which takes no longer than `within_s` of the loop's time."""
    deadline = rig.cluster.now() + within_s
    while rig.store.command(command_id).answered_at is None:
        assert rig.cluster.now() < deadline, "the command is not answered"
        rig.cycle(0.25)
    return rig.store.command(command_id)


def trial(rig: Rig, trial_id: str = FIRST) -> Trial:
    return rig.store.trial(trial_id)


def changed(parent: Trial, steps: int = 30, name: str = "other") -> Variant:
    warmup = parent.variant.stages[0]
    return variant(warmup, stage(f"{name}@{steps}", warmup, steps=steps))


def test_a_submission_is_answered_with_how_many_trials_it_has() -> None:
    rig = Rig()
    assert answered(rig, rig.submit(2)).answer == "2 trials queued"


def test_pause_is_answered_once_the_trial_has_left_its_device(rig: Rig) -> None:
    command = answered(rig, rig.ask(CommandKind.PAUSE, FIRST))
    assert (command.ok, command.answer) == (True, "1 paused")
    assert trial(rig).state is TrialState.PAUSED
    assert len([a for a in rig.store.allocations() if a.closed_at is None]) == 1


def test_a_paused_study_stays_paused_until_it_is_resumed(rig: Rig) -> None:
    answered(rig, rig.ask(CommandKind.PAUSE, "study-1"))
    rig.cycle_until(rig.cluster.now() + 60.0)
    assert rig.states() == [TrialState.PAUSED] * 2
    answered(rig, rig.ask(CommandKind.RESUME, "study-1"))
    rig.run()
    assert rig.states() == [TrialState.COMPLETED] * 2


def test_a_resumed_trial_goes_on_where_it_was(rig: Rig) -> None:
    answered(rig, rig.ask(CommandKind.PAUSE, "study-1"))
    resumed_at = rig.cluster.now()
    answered(rig, rig.ask(CommandKind.RESUME, "study-1"))
    rig.run()
    assert rig.cluster.now() - resumed_at < 9.0


def test_resume_waits_until_the_pause_before_it_is_done(rig: Rig) -> None:
    pause = rig.ask(CommandKind.PAUSE, FIRST)
    resume = rig.ask(CommandKind.RESUME, FIRST)
    answered(rig, resume)
    assert rig.store.command(pause).ok
    assert trial(rig).state in (TrialState.QUEUED, TrialState.RUNNING)


def test_pausing_what_is_over_is_refused_with_what_there_is(rig: Rig) -> None:
    rig.run()
    command = answered(rig, rig.ask(CommandKind.PAUSE, "study-1"))
    assert (command.ok, command.answer) == (False, "nothing to pause: 2 completed")


def test_resuming_what_is_not_paused_is_refused(rig: Rig) -> None:
    command = answered(rig, rig.ask(CommandKind.RESUME, FIRST))
    assert (command.ok, command.answer) == (False, "nothing to resume: no trial is paused (1 running)")


def test_cancel_ends_a_study_and_closes_it(rig: Rig) -> None:
    answered(rig, rig.ask(CommandKind.CANCEL, "study-1"))
    rig.run()
    assert rig.states() == [TrialState.CANCELLED] * 2
    assert trial(rig).error == "cancelled by me"


def test_retry_runs_a_cancelled_trial_again_and_reopens_its_study(rig: Rig) -> None:
    answered(rig, rig.ask(CommandKind.CANCEL, "study-1"))
    rig.run()
    answered(rig, rig.ask(CommandKind.RETRY, FIRST))
    assert rig.store.study("study-1").ended_at is None
    rig.run()
    assert rig.states() == [TrialState.COMPLETED, TrialState.CANCELLED]


def test_an_unknown_target_is_refused(rig: Rig) -> None:
    command = answered(rig, rig.ask(CommandKind.PAUSE, "nope"))
    assert (command.ok, command.answer) == (False, "there is no study or trial nope")


def test_a_clone_is_a_further_trial_of_its_study(rig: Rig) -> None:
    data = variant_to_data(changed(trial(rig)))
    command = answered(rig, rig.ask(CommandKind.CLONE, FIRST, variant=data, warm=False))
    assert command.answer == "study-1-0002 queued"
    rig.run()
    clone = trial(rig, "study-1-0002")
    assert (clone.state, clone.cloned_from) == (TrialState.COMPLETED, FIRST)
    assert clone.variant.stages[-1].warm_from == ""


def test_a_warm_clone_starts_at_its_parents_checkpoint(rig: Rig) -> None:
    rig.cycle_until(rig.cluster.now() + 4.0)  # past the checkpoint at step 15
    data = variant_to_data(changed(trial(rig)))
    command = answered(rig, rig.ask(CommandKind.CLONE, FIRST, variant=data, warm=True))
    assert command.answer == f"study-1-0002 queued, from step 15 of {FIRST}"
    rig.run()
    last = trial(rig, "study-1-0002").variant.stages[-1]
    held = next(a for a in rig.store.allocations() if a.stage_key == last.key)
    assert held.closed_at is not None
    assert held.closed_at - held.opened_at == pytest.approx(5.0, abs=1.1)


def test_a_warm_clone_of_a_trial_without_a_checkpoint_is_refused(rig: Rig) -> None:
    data = variant_to_data(changed(trial(rig)))
    command = answered(rig, rig.ask(CommandKind.CLONE, FIRST, variant=data, warm=True))
    assert not command.ok
    assert "has no checkpoint of its last stage yet" in command.answer


def test_a_warm_clone_that_changes_an_earlier_stage_is_refused(rig: Rig) -> None:
    other = stage("warmup@other")
    data = variant_to_data(variant(other, stage("main@9", other, steps=30)))
    command = answered(rig, rig.ask(CommandKind.CLONE, FIRST, variant=data, warm=True))
    assert not command.ok
    assert "changes stage warmup" in command.answer


def test_a_running_trial_is_extended_from_where_it_is(rig: Rig) -> None:
    data = variant_to_data(changed(trial(rig), steps=60, name="main"))
    command = answered(rig, rig.ask(CommandKind.EXTEND, FIRST, variant=data))
    assert command.ok
    assert command.answer.startswith("60 steps instead of 30, from step ")
    rig.run()
    extended = trial(rig)
    assert (extended.state, extended.variant.stages[-1].budget_steps) == (TrialState.COMPLETED, 60)
    assert 0 < extended.variant.stages[-1].warm_step < 30


def test_a_completed_trial_is_extended_from_its_end_under_its_own_id(rig: Rig) -> None:
    rig.run()
    data = variant_to_data(changed(trial(rig), steps=60, name="main"))
    answered(rig, rig.ask(CommandKind.EXTEND, FIRST, variant=data))
    rig.run()
    assert trial(rig).variant.stages[-1].warm_step == 30
    assert rig.states() == [TrialState.COMPLETED] * 2


def test_a_trial_that_is_extended_twice_before_it_runs_again_keeps_its_start(rig: Rig) -> None:
    rig.run()
    for steps in (60, 90):
        data = variant_to_data(changed(trial(rig), steps=steps, name="main"))
        answer = answered(rig, rig.ask(CommandKind.EXTEND, FIRST, variant=data)).answer
        assert answer.endswith("from step 30 on")
    rig.run()
    assert trial(rig).variant.stages[-1].budget_steps == 90


def test_an_extension_by_another_code_is_refused(rig: Rig) -> None:
    other = stage("warmup@other")
    data = variant_to_data(variant(other, stage("main@60", other, steps=60)))
    command = answered(rig, rig.ask(CommandKind.EXTEND, FIRST, variant=data))
    assert not command.ok
    assert "its earlier stages are other ones by now" in command.answer


def test_a_checkpoint_that_can_not_be_kept_is_an_answer_and_no_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(study_id: str, stage_key: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rig.cluster, "keep_checkpoint", full)
    data = variant_to_data(changed(trial(rig)))
    command = answered(rig, rig.ask(CommandKind.CLONE, FIRST, variant=data, warm=True))
    assert (command.ok, command.answer) == (False, "can't be done now: [Errno 28] No space left on device")
    rig.run()


def test_an_extension_that_is_none_is_refused(rig: Rig) -> None:
    data = variant_to_data(changed(trial(rig), steps=30))
    command = answered(rig, rig.ask(CommandKind.EXTEND, FIRST, variant=data))
    assert (command.ok, command.answer) == (False, f"{FIRST} has 30 steps already; give more than that, not 30")


def test_a_command_that_can_not_be_read_is_refused_and_the_loop_goes_on(rig: Rig) -> None:
    command = answered(rig, rig.ask(CommandKind.CLONE, FIRST, variant={"nonsense": 1}, warm=False))
    assert not command.ok
    assert command.answer.startswith("can't be read: KeyError")
    rig.run()


def test_a_command_about_a_study_of_an_earlier_term_finds_it_in_the_store(rig: Rig) -> None:
    rig.run()
    later = Rig(store=rig.store, cluster=rig.cluster)
    data = variant_to_data(changed(trial(rig), steps=60, name="main"))
    answered(later, later.ask(CommandKind.EXTEND, FIRST, variant=data))
    later.run()
    assert trial(later).variant.stages[-1].budget_steps == 60


def test_a_command_that_a_leader_did_not_finish_is_finished_by_the_next(rig: Rig) -> None:
    command_id = rig.ask(CommandKind.PAUSE, FIRST)
    rig.loop.cycle(0.0)  # the stop is asked for, and not answered yet
    assert rig.store.command(command_id).answered_at is None
    rig.cluster.close()
    later = Rig(store=rig.store, cluster=rig.cluster)
    assert answered(later, command_id).ok
    assert trial(later).state is TrialState.PAUSED


def test_a_variant_survives_being_plain_data() -> None:
    warmup = stage("warmup")
    warm = replace(stage("main", warmup), warm_from="kept", warm_step=7)
    original = variant(warmup, warm, overrides=("seed=1",))
    assert variant_from_data(variant_to_data(original)) == original
