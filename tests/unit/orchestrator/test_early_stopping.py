"""Early stopping in the scheduling loop on simulated devices: what it saves, what it costs, and what survives."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cluster.simulated import Script
from orchestrator.events import Launch, RecordStudy, RecordTrial
from orchestrator.fusion import Fusion
from orchestrator.report.document import build_report
from orchestrator.report.regret import pruning_regret
from orchestrator.schema import Allocation, Command, CommandKind, Fate, Outcome, Trial, TrialState, Variant
from orchestrator.store.database import DatabaseStore
from tests.unit.orchestrator.builders import stage, study, trials
from tests.unit.orchestrator.rig import CLUSTER, Rig
from tests.unit.orchestrator.stopping.studies import CONFIG

STEPS = 90
FUSION = Fusion(max_width=4)
Accuracy = Callable[[int, float], float]
"""Of a trial's number and the device-seconds that it has used: dev accuracy."""


def rising(number: int, spent_s: float) -> float:
    """Better from number to number, from the start."""
    return min(0.99, 0.05 + 0.05 * number + 0.005 * spent_s)


def scripted(accuracy: Accuracy) -> Callable[[Launch], Script]:
    """Thirty seconds, an evaluation in each."""

    def script(launch: Launch) -> Script:
        if launch.stage.name == "warmup":
            return Script(duration_s=3.0)
        number = int(launch.stage.key.rpartition("@")[2])
        reports = {step: {"eval/accuracy": accuracy(number, step / 3)} for step in range(0, STEPS + 1, 3)}
        last = accuracy(number, 30.0)
        return Script(
            duration_s=30.0, reports=reports, outcome=Outcome(metrics={"accuracy": last, "dev_accuracy": last})
        )

    return script


def submit(
    rig: Rig,
    count: int = 16,
    algorithms: Callable[[int], str] = lambda n: "sft",
    fusable: Callable[[int], bool] = lambda n: False,
    **stopping: Any,
) -> None:
    at = rig.cluster.now()
    config = {"cluster": CLUSTER, "stopping": {**CONFIG, **stopping}, "study": {}}
    made = replace(study("study-1", at), config=config, device_kind=None)
    warmup = stage("warmup@1")
    variants = []
    for n in range(count):
        main = stage(f"main@{n}", warmup, steps=STEPS, fusable=fusable(n))
        variants.append(
            Variant(
                key=main.key,
                algorithm=algorithms(n),
                seed=0,
                overrides=(f"optimizer.lr={n}",),
                config={"task": {"split": {"dev": 200}}},
                stages=(warmup, main),
            )
        )
    command = Command(command_id=0, at=at, author="me", kind=CommandKind.SUBMIT, target="study-1")
    rig.store.submit(
        command,
        RecordStudy(study=made),
        [RecordTrial(trial=replace(t, queued_at=at), was=None, at=at) for t in trials(variants, "study-1", at)],
    )


def finished(accuracy: Accuracy = rising, devices: int = 4, **stopping: Any) -> Rig:
    rig = Rig(scripted(accuracy), devices=devices)
    submit(rig, **stopping)
    rig.run()
    return rig


def held_s(rig: Rig) -> float:
    return sum(line.device_seconds(0.0) for line in rig.store.allocations("study-1"))


def of(rig: Rig, number: int) -> Trial:
    return rig.store.trials("study-1")[number]


@pytest.mark.parametrize("name", ["successive_halving", "median", "hyperband"])
def test_a_study_ends_sooner_and_its_best_trial_is_still_found(name: str) -> None:
    whole, early = finished(name="never"), finished(name=name)
    assert held_s(early) < (0.6 if name == "successive_halving" else 0.9) * held_s(whole)
    assert set(early.states()) == {TrialState.COMPLETED, TrialState.PRUNED}
    assert of(early, 15).state is TrialState.COMPLETED
    assert early.store.study("study-1").ended_at is not None


def test_a_stopped_trial_says_why_in_its_own_words() -> None:
    rig = finished()
    pruned = [t for t in rig.store.trials("study-1") if t.state is TrialState.PRUNED]
    assert all("by successive_halving" in t.error and "confidence 9" in t.error for t in pruned)
    assert all(t.ended_at is not None and t.stopped is not None for t in pruned)


def test_a_share_of_the_stopped_is_finished_and_the_regret_is_reported() -> None:
    rig = finished(finish_share=0.25)
    stopped = [t for t in rig.store.trials("study-1") if t.stopped is not None and t.stopped.fate is not Fate.PROMOTED]
    drawn = [t for t in stopped if t.stopped is not None and t.stopped.drawn]
    assert abs(len(drawn) - 0.25 * len(stopped)) <= 1.0
    assert all(t.state is TrialState.COMPLETED for t in drawn)
    regret = pruning_regret(rig.store.trials("study-1"))
    assert regret is not None
    assert (regret["finished"], regret["beaten"], regret["chance"], regret["size"]) == (len(drawn), 0, 0.0, 0.0)
    # What is finished costs what it holds from its verdict on.
    assert regret["finishing_gpu_seconds"] == pytest.approx(sum(t.gpu_seconds - t.stopped.gpu_seconds for t in drawn))  # type: ignore[union-attr]
    assert regret["finishing_gpu_seconds"] > 15.0 * len(drawn)


def stack_and_others(finish_share: float = 1.0, fusion: Fusion = FUSION) -> Rig:
    """One device; the first four can be one stack, of which the first two are stopped. Four others wait behind it."""
    rig = Rig(scripted(two_behind), devices=1, fusion=fusion)
    submit(rig, 8, fusable=lambda n: n < 4, finish_share=finish_share)
    rig.run()
    return rig


def two_behind(number: int, spent_s: float) -> float:
    return 0.1 if number < 2 else 0.9


def lines_of(rig: Rig, number: int) -> list[Allocation]:
    """The runs of a trial's own stage, in order."""
    lines = (a for a in rig.store.allocations("study-1") if a.stage_key.endswith(f"main@{number}"))
    return sorted(lines, key=lambda line: line.opened_at)


def test_who_was_drawn_is_finished_in_a_seat_that_nobody_waits_for() -> None:
    rig = stack_and_others()
    assert rig.states() == [TrialState.COMPLETED] * 8
    (whole,), others = lines_of(rig, 2), [lines_of(rig, n)[0] for n in range(4, 8)]
    for number in (0, 1):
        first, second = lines_of(rig, number)
        assert first.stack_id == second.stack_id == whole.stack_id
        assert second.opened_at - (first.closed_at or 0.0) <= 1.0
        assert second.opened_at < min(line.opened_at for line in others)


def test_who_was_not_drawn_takes_no_seat() -> None:
    rig = stack_and_others(finish_share=0.0)
    assert rig.states() == [TrialState.PRUNED] * 2 + [TrialState.COMPLETED] * 6
    assert [len(lines_of(rig, n)) for n in range(4)] == [1] * 4


def test_without_refill_it_is_finished_when_nobody_waits_any_more() -> None:
    rig = stack_and_others(fusion=replace(FUSION, refill=False))
    last = max(lines_of(rig, n)[0].opened_at for n in range(4, 8))
    assert min(lines_of(rig, n)[1].opened_at for n in (0, 1)) >= last


def test_who_waits_for_a_seat_gets_it_before_whom_a_policy_has_drawn() -> None:
    """All eight can be in the stack of four."""
    rig = Rig(scripted(two_behind), devices=1, fusion=FUSION)
    submit(rig, 8, fusable=lambda n: True, finish_share=1.0)
    rig.run()
    finishing = [lines_of(rig, n)[1].opened_at for n in (0, 1)]
    assert max(lines_of(rig, n)[0].opened_at for n in range(4, 8)) <= min(finishing)


def test_while_all_the_rest_is_paused_nobody_takes_a_seat() -> None:
    """The stack of another study goes on beside it."""
    rig = Rig(scripted(two_behind), devices=1, fusion=FUSION)
    submit(rig, 4, fusable=lambda n: True, finish_share=1.0, min_resource=3.0)
    rig.submit(2, "study-2", fusable=True)
    rig.cycle_until(4.0)
    rig.ask(CommandKind.PAUSE, "study-1")
    rig.cycle_until(60.0)
    assert set(rig.states()) == {TrialState.PAUSED}


def test_a_rule_that_stops_the_winner_is_found_out() -> None:
    """Those that start slowly win; nobody told the policy."""

    def late(number: int, spent_s: float) -> float:
        return 0.6 if number % 2 == 0 else (0.1 if spent_s < 15 else 0.95)

    rig = finished(late, devices=16, name="median", finish_share=1.0)
    regret = pruning_regret(rig.store.trials("study-1"))
    assert regret is not None
    assert regret["beaten"] == regret["finished"] == 8
    assert regret["size"] == pytest.approx(0.35)


def test_a_grace_for_an_algorithm_saves_what_blooms_late() -> None:
    def late(number: int, spent_s: float) -> float:
        return 0.6 if number % 2 == 0 else (0.1 if spent_s < 8 else 0.95)

    def algorithm(number: int) -> str:
        return "grpo" if number % 2 else "sft"

    raw = finished(late, devices=16, algorithms=algorithm, name="median")
    assert all(of(raw, n).state is TrialState.PRUNED for n in range(1, 16, 2))
    kind = finished(late, devices=16, algorithms=algorithm, name="median", grace={"grpo": 0.3, "sft": 0.05})
    assert all(of(kind, n).state is TrialState.COMPLETED for n in range(1, 16, 2))


def test_a_trial_that_is_promoted_goes_on_from_its_checkpoint() -> None:
    """The first four are the best of what comes, in the wrong order: who is behind three is ahead of the rest."""

    def accuracy(number: int, spent_s: float) -> float:
        return [0.9, 0.85, 0.8, 0.6][number] if number < 4 else 0.1

    rig = finished(accuracy, devices=1)
    promoted = [t for t in rig.store.trials("study-1") if t.stopped is not None and t.stopped.fate is Fate.PROMOTED]
    assert [t.number for t in promoted if t.state is TrialState.COMPLETED]
    for t in promoted:
        if t.state is TrialState.COMPLETED:  # it held its devices for one run, not for two
            assert t.stage_gpu_seconds == pytest.approx(30.0, abs=3.0)


def test_what_a_person_paused_no_policy_lets_go_on() -> None:
    rig = Rig(scripted(rising), devices=4)
    submit(rig, finish_share=1.0)
    rig.cycle_until(5.0)
    rig.ask(CommandKind.PAUSE, "study-1-0015")
    rig.cycle_until(400.0)
    assert of(rig, 15).state is TrialState.PAUSED
    assert not rig.loop.finished("study-1")
    rig.ask(CommandKind.RESUME, "study-1-0015")
    rig.run()
    assert of(rig, 15).state is TrialState.COMPLETED


def test_whom_a_policy_holds_a_person_may_resume_and_it_runs_to_its_end() -> None:
    rig = Rig(scripted(rising), devices=4)
    submit(rig)
    rig.cycle_until(10.0)
    assert of(rig, 0).held
    rig.ask(CommandKind.RESUME, "study-1-0000")
    rig.run()
    assert of(rig, 0).state is TrialState.COMPLETED


def test_to_resume_a_study_is_not_to_resume_what_its_policy_holds() -> None:
    rig = Rig(scripted(rising), devices=4)
    submit(rig)
    rig.cycle_until(10.0)
    kept = {t.number for t in rig.store.trials("study-1") if t.held}
    rig.ask(CommandKind.PAUSE, "study-1")
    rig.cycle_until(13.0)
    assert kept
    assert set(rig.states()) == {TrialState.PAUSED}
    rig.ask(CommandKind.RESUME, "study-1")
    rig.cycle_until(15.0)
    assert {t.number for t in rig.store.trials("study-1") if t.held or t.state is TrialState.PRUNED} >= kept
    rig.run()


@pytest.mark.parametrize("after_s", [5.0, 8.0, 14.0, 25.0])
def test_a_leader_that_dies_takes_no_verdict_with_it(after_s: float, tmp_path: Any) -> None:
    """Over a real database: marks, verdicts and draws are all read back."""
    store = DatabaseStore(f"sqlite:///{tmp_path}/store.db")
    dead = Rig(scripted(rising), devices=4, store=store)
    submit(dead, finish_share=0.25)
    dead.cycle_until(after_s)
    before = dead.store.trials("study-1")
    dead.cluster.close()
    rig = Rig(store=store, cluster=dead.cluster)
    assert [t.stopped for t in rig.store.trials("study-1")] == [t.stopped for t in before]
    assert [t.evaluations for t in rig.store.trials("study-1")] == [t.evaluations for t in before]
    rig.run()
    after = rig.store.trials("study-1")
    assert {t.state for t in after} == {TrialState.COMPLETED, TrialState.PRUNED}
    drawn = {t.number for t in before if t.stopped and t.stopped.drawn and t.stopped.fate is not Fate.PROMOTED}
    assert {t.number for t in after if t.stopped and t.stopped.drawn} >= drawn - {
        t.number for t in after if t.stopped and t.stopped.fate is Fate.PROMOTED
    }
    store.close()


def test_the_report_tells_of_every_verdict() -> None:
    rig = finished(finish_share=0.25)
    made = rig.store.study("study-1")
    report = build_report(made, rig.store.trials("study-1"), rig.store.allocations("study-1"), rig.cluster.now())
    assert len(report["pruning_regret"]["verdicts"]) == report["pruning_regret"]["stopped"]
