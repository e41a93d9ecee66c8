"""The event machine: what each event leads to. `machine` checks every invariant after every event."""

from orchestrator.events import (
    BundleStopped,
    HaltRequested,
    Instruction,
    Launch,
    NodeLost,
    PlacementsDecided,
    RecordAllocation,
    RecordPoint,
    RecordTrial,
    StageCompleted,
    StageRaised,
    StageReported,
    Stop,
    WorkerLost,
)
from orchestrator.packing import BestFit
from orchestrator.schema import Outcome, TrialState
from orchestrator.state import SchedulerState, validate
from orchestrator.state.snapshots import pending_reason
from tests.unit.orchestrator.builders import joined, stage, submitted


class Machine(SchedulerState):
    """Validates after every event and names the bundles 0, 1, 2, ..."""

    def __init__(self, *, fuses: bool = False) -> None:
        super().__init__(max_attempts=2, fuses=fuses)
        self.launched = 0

    def handle(self, event: object) -> list[Instruction]:
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

    def states(self) -> list[TrialState]:
        return [t.state for t in self.study_trials("study-1")]


def complete(machine: Machine, bundle_id: str, at: float, **metrics: float) -> list[Instruction]:
    return machine.handle(StageCompleted(at=at, bundle_id=bundle_id, outcome=Outcome(metrics=metrics, busy_s=1.0)))


def test_a_shared_stage_is_launched_once_for_all_its_trials(machine: Machine) -> None:
    machine.handle(submitted(3))
    launches = machine.pack(at=1.0)
    assert [(launch.stage.name, len(launch.trial_ids)) for launch in launches] == [("warmup", 3)]
    assert machine.states() == [TrialState.RUNNING, TrialState.QUEUED, TrialState.QUEUED]
    assert pending_reason(machine, "study-1-0002", {}) == "stage warmup, which trial 0 runs for all that share it"


def test_completing_the_shared_stage_queues_every_trials_own_stage(machine: Machine) -> None:
    machine.handle(submitted(3))
    machine.pack(at=1.0)
    complete(machine, "0", at=5.0)
    assert [launch.stage.name for launch in machine.pack(at=5.0)] == ["main", "main"]
    assert [t.reused_stages for t in machine.study_trials("study-1")] == [(), (">warmup",), (">warmup",)]


def test_a_shared_stages_hold_is_split_evenly_among_its_trials(machine: Machine) -> None:
    machine.handle(submitted(2))
    machine.pack(at=1.0)
    complete(machine, "0", at=5.0)
    assert [t.gpu_seconds for t in machine.study_trials("study-1")] == [2.0, 2.0]


def test_a_trial_completes_with_the_metrics_of_its_last_stage(machine: Machine) -> None:
    machine.handle(submitted(1))
    machine.pack(at=1.0)
    complete(machine, "0", at=2.0, accuracy=0.25)
    machine.pack(at=2.0)
    instructions = complete(machine, "1", at=4.0, accuracy=0.5)
    trial = machine.trials["study-1-0000"]
    assert (trial.state, trial.metrics, trial.ended_at) == (TrialState.COMPLETED, {"accuracy": 0.5}, 4.0)
    assert instructions[-1] == RecordTrial(trial=trial, was=TrialState.RUNNING, at=4.0)
    assert machine.finished("study-1")


def test_an_available_stage_is_walked_past_and_counted_as_reused(machine: Machine) -> None:
    event = submitted(2)
    outcome = Outcome(metrics={"accuracy": 0.25})
    machine.handle(type(event)(**{**_fields(event), "available_stages": {stage("warmup").key: outcome}}))
    assert [launch.stage.name for launch in machine.pack(at=1.0)] == ["main", "main"]
    assert all(t.reused_stages for t in machine.study_trials("study-1"))


def _fields(event: object) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__dataclass_fields__}  # type: ignore[attr-defined]


def test_a_stage_that_raises_fails_its_trials_and_no_others(machine: Machine) -> None:
    machine.handle(submitted(2))
    machine.pack(at=1.0)
    complete(machine, "0", at=2.0)
    machine.pack(at=2.0)
    machine.handle(StageRaised(at=3.0, bundle_id="1", error="ValueError: no"))
    assert machine.states() == [TrialState.FAILED, TrialState.RUNNING]
    assert machine.trials["study-1-0000"].error == "ValueError: no"


def test_a_lost_worker_requeues_its_stage_and_then_fails_it(machine: Machine) -> None:
    machine.handle(submitted(1))
    machine.pack(at=1.0)
    machine.handle(WorkerLost(at=2.0, bundle_id="0", reason="killed by SIGKILL"))
    assert machine.states() == [TrialState.QUEUED]
    machine.pack(at=3.0)
    machine.handle(WorkerLost(at=4.0, bundle_id="1", reason="killed by SIGKILL"))
    assert machine.states() == [TrialState.FAILED]
    error = "lost 2 times, last: killed by SIGKILL (cluster.max_attempts=2)"
    assert machine.trials["study-1-0000"].error == error


def ready_to_fuse() -> Machine:
    """Two trials behind a warm-up that is done; their stages run as bundles 1 and 2."""
    machine = Machine(fuses=True)
    machine.handle(joined(2))
    machine.handle(submitted(2, fusable=True))
    machine.pack(at=1.0)
    complete(machine, "0", at=2.0)
    assert all(request.fusion_key for request in machine.snapshot(2.0).queue)
    assert len(machine.pack(at=2.0)) == 2
    return machine


def test_who_was_lost_by_itself_runs_alone_the_next_time() -> None:
    machine = ready_to_fuse()
    machine.handle(WorkerLost(at=3.0, bundle_id="1", reason="killed by SIGKILL"))
    assert [request.fusion_key for request in machine.snapshot(3.0).queue] == [""]


def test_who_was_lost_with_its_node_is_not_to_blame() -> None:
    machine = ready_to_fuse()
    machine.handle(WorkerLost(at=3.0, bundle_id="1", reason="its forkserver died", blameless=True))
    machine.handle(NodeLost(at=3.0, node_id="node-a", reason="unreachable"))
    assert all(request.fusion_key for request in machine.snapshot(3.0).queue)
    assert len(machine.snapshot(3.0).queue) == 2


def test_a_lost_node_takes_its_devices_and_requeues_its_bundles(machine: Machine) -> None:
    machine.handle(submitted(1))
    machine.pack(at=1.0)
    machine.handle(NodeLost(at=2.0, node_id="node-a", reason="unreachable"))
    assert machine.states() == [TrialState.QUEUED]
    assert machine.pack(at=2.0) == []


def test_ending_a_queued_trial_takes_effect_at_once(machine: Machine) -> None:
    machine.handle(submitted(2))
    event = HaltRequested(at=1.0, trial_ids=("study-1-0001",), into=TrialState.CANCELLED, reason="not needed")
    assert [type(i) for i in machine.handle(event)] == [RecordTrial]
    assert machine.states() == [TrialState.QUEUED, TrialState.CANCELLED]


def test_ending_the_only_trial_of_a_bundle_stops_it_at_a_step_boundary(machine: Machine) -> None:
    machine.handle(submitted(1))
    machine.pack(at=1.0)
    event = HaltRequested(at=2.0, trial_ids=("study-1-0000",), into=TrialState.PRUNED, reason="median")
    assert machine.handle(event) == [Stop(bundle_id="0", reason="median")]
    assert machine.states() == [TrialState.RUNNING]
    machine.handle(BundleStopped(at=3.0, bundle_id="0", busy_s=1.5))
    assert machine.states() == [TrialState.PRUNED]
    assert machine.trials["study-1-0000"].gpu_seconds == 2.0


def test_when_the_leader_of_a_shared_stage_ends_the_next_trial_leads(machine: Machine) -> None:
    machine.handle(submitted(3))
    machine.pack(at=1.0)
    event = HaltRequested(at=2.0, trial_ids=("study-1-0000",), into=TrialState.CANCELLED, reason="x")
    assert not any(isinstance(i, Stop) for i in machine.handle(event))
    assert machine.states() == [TrialState.CANCELLED, TrialState.RUNNING, TrialState.QUEUED]


def test_ending_every_trial_of_a_shared_stage_stops_it(machine: Machine) -> None:
    machine.handle(submitted(3))
    machine.pack(at=1.0)
    everyone = tuple(machine.trials)
    instructions = machine.handle(HaltRequested(at=2.0, trial_ids=everyone, into=TrialState.CANCELLED, reason="x"))
    assert instructions[-1] == Stop(bundle_id="0", reason="x")
    machine.handle(BundleStopped(at=3.0, bundle_id="0"))
    assert machine.finished("study-1")


def test_a_stopped_bundle_that_completed_all_the_same_counts(machine: Machine) -> None:
    machine.handle(submitted(1))
    machine.pack(at=1.0)
    complete(machine, "0", at=2.0)
    machine.pack(at=2.0)
    machine.handle(HaltRequested(at=3.0, trial_ids=("study-1-0000",), into=TrialState.CANCELLED, reason="x"))
    complete(machine, "1", at=3.1)
    assert machine.states() == [TrialState.COMPLETED]


def test_reports_of_a_shared_stage_carry_its_name_and_go_to_its_leader(machine: Machine) -> None:
    machine.handle(submitted(2))
    machine.pack(at=1.0)
    report = StageReported(at=2.0, bundle_id="0", step=5, metrics={"train/loss": 1.0}, progress=0.5)
    tracked = [i for i in machine.handle(report) if isinstance(i, RecordPoint)]
    assert [(i.trial_id, i.step, i.metrics) for i in tracked] == [("study-1-0000", 5, {"warmup/train/loss": 1.0})]


def test_reports_of_the_last_stage_keep_their_names(machine: Machine) -> None:
    machine.handle(submitted(1))
    machine.pack(at=1.0)
    complete(machine, "0", at=2.0)
    machine.pack(at=2.0)
    report = StageReported(at=3.0, bundle_id="1", step=5, metrics={"train/loss": 1.0}, progress=0.5)
    tracked = [i for i in machine.handle(report) if isinstance(i, RecordPoint)]
    assert [i.metrics for i in tracked] == [{"train/loss": 1.0}]


def test_events_of_a_bundle_that_is_over_change_nothing(machine: Machine) -> None:
    machine.handle(submitted(1))
    machine.pack(at=1.0)
    complete(machine, "0", at=2.0)
    before = dict(machine.trials)
    assert complete(machine, "0", at=3.0) == []
    assert machine.handle(WorkerLost(at=3.0, bundle_id="0", reason="late")) == []
    assert machine.trials == before


def test_the_ledger_opens_with_the_launch_and_closes_with_the_stage(machine: Machine) -> None:
    machine.handle(submitted(1, share=0.5))
    machine.pack(at=1.0)
    assert [a.closed_at for a in machine.allocations("study-1")] == [None]
    instructions = complete(machine, "0", at=5.0)
    closed = next(i.allocation for i in instructions if isinstance(i, RecordAllocation))
    assert (closed.device_seconds(99.0), closed.busy_device_seconds()) == (2.0, 0.5)


def test_two_trials_of_one_variant_share_its_run(machine: Machine) -> None:
    event = submitted(1)
    twin = event.trials[0].__class__(**{**_fields(event.trials[0]), "trial_id": "study-1-0001", "number": 1})
    machine.handle(type(event)(**{**_fields(event), "trials": (*event.trials, twin)}))
    machine.pack(at=1.0)
    complete(machine, "0", at=2.0)
    assert len(machine.pack(at=2.0)) == 1
    complete(machine, "1", at=3.0, accuracy=0.5)
    assert machine.states() == [TrialState.COMPLETED, TrialState.COMPLETED]
