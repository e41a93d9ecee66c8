"""What people and policies ask of running trials: pause, resume, retry, clone, extend, preempt; and a new leader."""

from dataclasses import replace

import pytest

from orchestrator.events import (
    BundleStopped,
    HaltRequested,
    Launch,
    LeaderLost,
    LedgerRestored,
    NodeJoined,
    PlacementsDecided,
    PreemptionDecided,
    QueueRequested,
    RecordPoint,
    RecordStudy,
    RecordTrial,
    StageCompleted,
    StageRaised,
    StageReported,
    StageSaved,
    Stop,
    StudyForgotten,
    StudySubmitted,
    TrialExtended,
    TrialsAdded,
    WorkerLost,
)
from orchestrator.packing import BestFit
from orchestrator.schema import Outcome, TrialState, Variant
from orchestrator.state import SchedulerState, validate
from tests.unit.orchestrator.builders import demand, joined, stage, submitted, variant

FIRST = "study-1-0000"


class Machine(SchedulerState):
    """Validates after every event and names the bundles 0, 1, 2, ..."""

    def __init__(self, trials: int = 1, devices: int = 2) -> None:
        super().__init__(max_attempts=2)
        self.launched = 0
        self.handle(joined(devices))
        self.handle(submitted(trials))
        self.pack(0.0)
        self.complete("0", 1.0)

    def handle(self, event: object) -> list:
        instructions = super().handle(event)  # type: ignore[arg-type]
        validate(self)
        return instructions

    def pack(self, at: float) -> list[Launch]:
        snapshot = self.snapshot(at)
        placements = tuple(BestFit()(snapshot, snapshot.queue))
        names = tuple(str(self.launched + n) for n in range(len(placements)))
        self.launched += len(placements)
        decided = PlacementsDecided(at=at, placements=placements, bundle_ids=names)
        return [i for i in self.handle(decided) if isinstance(i, Launch)]

    def complete(self, bundle_id: str, at: float) -> list:
        return self.handle(StageCompleted(at=at, bundle_id=bundle_id, outcome=Outcome(metrics={"accuracy": 0.5})))

    def halt(self, at: float, into: TrialState, *trial_ids: str) -> list:
        return self.handle(HaltRequested(at=at, trial_ids=trial_ids, into=into, reason="asked"))

    def state_of(self, trial_id: str = FIRST) -> TrialState:
        return self.trials[trial_id].state


@pytest.fixture
def machine() -> Machine:
    """One trial whose warm-up is done, its last stage running in bundle 1 since second 2."""
    machine = Machine()
    machine.pack(2.0)
    return machine


def test_pausing_a_running_trial_stops_it_at_a_step_boundary_and_keeps_it(machine: Machine) -> None:
    assert [type(i) for i in machine.halt(3.0, TrialState.PAUSED, FIRST)] == [Stop]
    machine.handle(BundleStopped(at=4.0, bundle_id="1"))
    assert machine.state_of() is TrialState.PAUSED
    assert machine.pack(5.0) == []


def test_a_paused_trial_that_is_resumed_runs_its_stage_again(machine: Machine) -> None:
    machine.halt(3.0, TrialState.PAUSED, FIRST)
    machine.handle(BundleStopped(at=4.0, bundle_id="1"))
    machine.handle(QueueRequested(at=5.0, trial_ids=(FIRST,)))
    assert [launch.stage.name for launch in machine.pack(6.0)] == ["main"]


def test_resuming_before_the_bundle_has_stopped_takes_the_pause_back(machine: Machine) -> None:
    machine.halt(3.0, TrialState.PAUSED, FIRST)
    machine.handle(QueueRequested(at=3.5, trial_ids=(FIRST,)))
    machine.handle(BundleStopped(at=4.0, bundle_id="1"))
    assert machine.state_of() is TrialState.QUEUED


def test_a_paused_trial_can_be_cancelled(machine: Machine) -> None:
    machine.halt(3.0, TrialState.PAUSED, FIRST)
    machine.handle(BundleStopped(at=4.0, bundle_id="1"))
    machine.halt(5.0, TrialState.CANCELLED, FIRST)
    assert machine.finished("study-1")


def test_a_trial_that_is_over_can_not_be_paused_or_cancelled(machine: Machine) -> None:
    machine.complete("1", 3.0)
    assert machine.halt(4.0, TrialState.PAUSED, FIRST) == []
    assert machine.halt(4.0, TrialState.CANCELLED, FIRST) == []


def test_retry_gives_a_failed_trial_another_chance_and_reopens_its_study(machine: Machine) -> None:
    machine.handle(StageRaised(at=3.0, bundle_id="1", error="boom"))
    machine.studies["study-1"] = replace(machine.studies["study-1"], ended_at=3.0)
    instructions = machine.handle(QueueRequested(at=4.0, trial_ids=(FIRST,), retry=True))
    assert [i.study.ended_at for i in instructions if isinstance(i, RecordStudy)] == [None]
    assert (machine.state_of(), machine.trials[FIRST].error) == (TrialState.QUEUED, "")


def test_resume_is_not_retry(machine: Machine) -> None:
    machine.handle(StageRaised(at=3.0, bundle_id="1", error="boom"))
    assert machine.handle(QueueRequested(at=4.0, trial_ids=(FIRST,))) == []


def test_a_preempted_trial_waits_again_where_it_was_and_is_counted(machine: Machine) -> None:
    queued_at = machine.trials[FIRST].queued_at
    machine.handle(PreemptionDecided(at=3.0, bundle_ids=("1",), reason="room"))
    machine.handle(BundleStopped(at=4.0, bundle_id="1"))
    (request,) = machine.snapshot(5.0).queue
    assert (request.preemptions, request.queued_at) == (1, queued_at)
    assert machine.trials[FIRST].preemptions == 1


def test_a_service_that_ends_does_not_count_as_a_preemption(machine: Machine) -> None:
    machine.handle(PreemptionDecided(at=3.0, bundle_ids=("1",), reason="the service ends", counts=False))
    machine.handle(BundleStopped(at=4.0, bundle_id="1"))
    assert machine.trials[FIRST].preemptions == 0


def test_a_bundle_is_asked_to_stop_once(machine: Machine) -> None:
    event = PreemptionDecided(at=3.0, bundle_ids=("1",), reason="room")
    assert [type(i) for i in machine.handle(event)] == [Stop]
    assert machine.handle(event) == []


def test_a_clone_joins_its_study_and_shares_its_prefix(machine: Machine) -> None:
    parent = machine.trials[FIRST]
    other = variant(parent.variant.stages[0], stage("clone", parent.variant.stages[0]))
    clone = replace(
        parent, trial_id="study-1-0001", number=1, variant=other, state=TrialState.QUEUED, stage_index=0,
        gpu_seconds=0.0, cloned_from=FIRST,
    )  # fmt: skip
    machine.handle(TrialsAdded(at=3.0, trials=(clone,), demands={s.key: demand() for s in other.stages}))
    assert [launch.stage.key for launch in machine.pack(3.0)] == [other.stages[1].key]
    assert machine.trials["study-1-0001"].reused_stages == (other.stages[0].key,)


def extension(machine: Machine, steps: int) -> tuple[Variant, TrialExtended]:
    warmup = machine.trials[FIRST].variant.stages[0]
    longer = variant(warmup, stage(f"main@{steps}", warmup, steps=steps))
    demands = {s.key: demand() for s in longer.stages}
    return longer, TrialExtended(at=4.0, trial_id=FIRST, variant=longer, demands=demands)


def test_an_extended_trial_runs_its_new_last_stage_only(machine: Machine) -> None:
    machine.complete("1", 3.0)
    longer, event = extension(machine, 60)
    instructions = machine.handle(event)
    assert [i.new_variant for i in instructions if isinstance(i, RecordTrial)] == [True]
    assert [launch.stage.key for launch in machine.pack(5.0)] == [longer.stages[1].key]


def test_a_trial_that_runs_is_not_extended_under_its_feet(machine: Machine) -> None:
    assert machine.handle(extension(machine, 60)[1]) == []


def test_steps_that_are_gone_over_again_are_reported_once(machine: Machine) -> None:
    def report(bundle: str, step: int) -> list[int]:
        event = StageReported(at=3.0, bundle_id=bundle, step=step, metrics={"train/loss": 1.0}, progress=step / 30)
        return [i.step for i in machine.handle(event) if isinstance(i, RecordPoint)]

    assert report("1", 10) + report("1", 20) == [10, 20]
    machine.handle(WorkerLost(at=4.0, bundle_id="1", reason="killed"))
    machine.pack(5.0)
    assert report("2", 10) + report("2", 20) + report("2", 30) == [30]


def test_work_is_unsaved_since_the_last_checkpoint(machine: Machine) -> None:
    assert machine.snapshot(5.0).residents[0].unsaved_s == 3.0
    machine.handle(StageSaved(at=4.0, bundle_id="1", step=10))
    assert machine.snapshot(5.0).residents[0].unsaved_s == 1.0


def taken_over(machine: Machine) -> SchedulerState:
    """Another machine, fed with what a store would hold of the first."""
    other = SchedulerState(max_attempts=2)
    event = submitted(len(machine.trials))
    devices = tuple(free.device for free in machine.room.free())
    other.handle(NodeJoined(at=0.0, node_id="node-a", devices=devices))
    at_hand = {key: r.outcome for key, r in machine.stages.items() if r.state == "completed"}
    known = StudySubmitted(
        at=5.0,
        study=machine.studies["study-1"],
        trials=tuple(machine.study_trials("study-1")),
        demands=event.demands,
        available_stages=at_hand,
        announced=True,
    )
    assert other.handle(known) == []
    other.handle(LedgerRestored(at=5.0, ledger=tuple(machine.allocations("study-1")), tenants={}))
    validate(other)
    return other


def test_what_a_store_holds_is_enough_to_go_on_with() -> None:
    machine = Machine(trials=3)
    machine.pack(2.0)
    other = taken_over(machine)
    assert other.trials == machine.trials
    assert set(other.bundles) == set(machine.bundles)
    assert [r.stage_key for r in other.snapshot(6.0).queue] == [r.stage_key for r in machine.snapshot(6.0).queue]


def test_a_new_leader_closes_the_ledger_when_the_old_one_died_and_counts_no_attempt() -> None:
    machine = Machine(trials=3)
    machine.pack(2.0)
    other = taken_over(machine)
    for at in (4.0, 5.0, 6.0):  # more often than a stage may be lost
        other.handle(LeaderLost(at=at, reason="killed"))
        validate(other)
        other.handle(joined(2))
        snapshot = other.snapshot(at)
        placements = tuple(BestFit()(snapshot, snapshot.queue))
        ids = tuple(f"{at}-{n}" for n in range(len(placements)))
        other.handle(PlacementsDecided(at=at, placements=placements, bundle_ids=ids))
    ends = {a.bundle_id: a.closed_at for a in other.allocations("study-1")}
    assert (ends["1"], ends["2"]) == (4.0, 4.0)
    assert TrialState.FAILED not in {t.state for t in other.trials.values()}


def test_a_study_that_has_ended_can_be_forgotten_with_all_that_only_it_needed(machine: Machine) -> None:
    machine.complete("1", 3.0)
    machine.studies["study-1"] = replace(machine.studies["study-1"], ended_at=3.0)
    machine.handle(StudyForgotten(at=4.0, study_id="study-1"))
    assert (machine.studies, machine.trials, machine.stages, list(machine.ledger)) == ({}, {}, {}, [])


def test_a_study_that_goes_on_is_not_forgotten(machine: Machine) -> None:
    machine.studies["study-1"] = replace(machine.studies["study-1"], ended_at=3.0)
    machine.handle(StudyForgotten(at=4.0, study_id="study-1"))
    assert machine.state_of() is TrialState.RUNNING


def test_what_a_person_asked_for_comes_before_a_stopping_policy(machine: Machine) -> None:
    machine.halt(3.0, TrialState.CANCELLED, FIRST)
    machine.halt(3.5, TrialState.PRUNED, FIRST)
    machine.handle(BundleStopped(at=4.0, bundle_id="1"))
    assert machine.state_of() is TrialState.CANCELLED


def test_studies_that_shared_a_run_are_forgotten_once_both_have_ended(machine: Machine) -> None:
    warmup = {stage("warmup").key: Outcome()}
    machine.handle(replace(submitted(1, study_id="study-2"), available_stages=warmup))  # it shares the run of `main`
    machine.complete("1", 3.0)
    for study_id in ("study-1", "study-2"):
        machine.handle(StudyForgotten(at=4.0, study_id=study_id))
        assert study_id in machine.studies
    for study_id in ("study-1", "study-2"):
        machine.studies[study_id] = replace(machine.studies[study_id], ended_at=5.0)
    for study_id in ("study-1", "study-2"):
        machine.handle(StudyForgotten(at=6.0, study_id=study_id))
    assert (machine.studies, machine.trials, list(machine.ledger), machine.stages) == ({}, {}, [], {})
