"""Random event sequences, repeated, reordered and out of place, never break an invariant of the event machine.

Every instruction is also applied to a store that compares and sets: one that doesn't fit what is recorded, or that
asks for a transition that doesn't exist, fails the test.
"""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from orchestrator.events import (
    BundleStarted,
    BundleStopped,
    Event,
    HaltRequested,
    Instruction,
    LeaderLost,
    NodeLost,
    PlacementsDecided,
    PreemptionDecided,
    QueueRequested,
    RecordAllocation,
    RecordTrial,
    StageCompleted,
    StageRaised,
    StageReported,
    StageSaved,
    StudyForgotten,
    StudySubmitted,
    TrialExtended,
    TrialsAdded,
    WorkerLost,
)
from orchestrator.packing import PACKINGS
from orchestrator.schema import Outcome, TrialState
from orchestrator.state import SchedulerState, validate
from tests.unit.orchestrator.builders import demand, joined, stage, submitted, variant

BUNDLES = st.integers(0, 30).map(str)
NUMBERS = st.sets(st.integers(0, 3))


class Recorded:
    """What a store would hold: trials by id, ledger lines by bundle."""

    def __init__(self) -> None:
        self.trials: dict[str, TrialState] = {}
        self.ledger: dict[str, bool] = {}

    def apply(self, instruction: Instruction) -> None:
        match instruction:
            case RecordTrial():
                trial_id, state = instruction.trial.trial_id, instruction.trial.state
                assert self.trials.get(trial_id) is instruction.was
                assert instruction.was is None or instruction.was.may_become(state)
                self.trials[trial_id] = state
            case RecordAllocation():
                line = instruction.allocation
                opens = line.closed_at is None
                assert (line.bundle_id not in self.ledger) if opens else self.ledger[line.bundle_id]
                self.ledger[line.bundle_id] = opens
            case _:
                pass


class EventSequences(RuleBasedStateMachine):
    """Time moves on by one at every event; bundles are named 0, 1, 2, ... as they are launched."""

    def __init__(self) -> None:
        super().__init__()
        self.state = SchedulerState(max_attempts=2)
        self.recorded = Recorded()
        self.now = 0.0
        self.launched = 0
        self.studies = 0
        self.history: list[Event] = []

    def send(self, event: Event) -> None:
        self.now += 1.0
        for instruction in self.state.handle(replace(event, at=self.now)):
            self.recorded.apply(instruction)
        self.history.append(event)

    @rule(count=st.integers(1, 4), share=st.sampled_from([0.25, 0.5, 1.0]), gang=st.integers(1, 2))
    def submit(self, count: int, share: float, gang: int) -> None:
        self.studies += 1
        event = submitted(count, share, gang, study_id=f"study-{self.studies}")
        self.recorded.trials |= {trial.trial_id: trial.state for trial in event.trials}
        self.send(event)

    @rule(node=st.sampled_from(["node-a", "node-b"]))
    def join(self, node: str) -> None:
        self.send(joined(2, node))

    @rule(node=st.sampled_from(["node-a", "node-b"]))
    def lose_node(self, node: str) -> None:
        self.send(NodeLost(at=0.0, node_id=node, reason="gone"))

    @rule(policy=st.sampled_from(sorted(PACKINGS)))
    def pack(self, policy: str) -> None:
        snapshot = self.state.snapshot(self.now)
        placements = tuple(PACKINGS[policy](snapshot.devices, snapshot.queue))
        names = tuple(str(self.launched + n) for n in range(len(placements)))
        self.launched += len(placements)
        self.send(PlacementsDecided(at=0.0, placements=placements, bundle_ids=names))

    @rule(bundle=BUNDLES, progress=st.floats(0, 1))
    def report(self, bundle: str, progress: float) -> None:
        self.send(BundleStarted(at=0.0, bundle_id=bundle))
        self.send(StageReported(at=0.0, bundle_id=bundle, step=1, metrics={"train/loss": 1.0}, progress=progress))

    @rule(bundle=BUNDLES)
    def complete(self, bundle: str) -> None:
        self.send(StageCompleted(at=0.0, bundle_id=bundle, outcome=Outcome(metrics={"accuracy": 0.5})))

    @rule(bundle=BUNDLES)
    def fail(self, bundle: str) -> None:
        self.send(StageRaised(at=0.0, bundle_id=bundle, error="boom"))

    @rule(bundle=BUNDLES)
    def lose(self, bundle: str) -> None:
        self.send(WorkerLost(at=0.0, bundle_id=bundle, reason="killed"))

    @rule(bundle=BUNDLES)
    def stop(self, bundle: str) -> None:
        self.send(BundleStopped(at=0.0, bundle_id=bundle))

    @rule(bundle=BUNDLES, step=st.integers(0, 30))
    def save(self, bundle: str, step: int) -> None:
        self.send(StageSaved(at=0.0, bundle_id=bundle, step=step))

    @rule(numbers=NUMBERS, into=st.sampled_from([TrialState.CANCELLED, TrialState.PRUNED, TrialState.PAUSED]))
    def halt(self, numbers: set[int], into: TrialState) -> None:
        self.send(HaltRequested(at=0.0, trial_ids=self.chosen(numbers), into=into, reason="asked"))

    @rule(numbers=NUMBERS, retry=st.booleans())
    def queue_again(self, numbers: set[int], retry: bool) -> None:
        self.send(QueueRequested(at=0.0, trial_ids=self.chosen(numbers), retry=retry))

    @rule(bundles=st.sets(BUNDLES), counts=st.booleans())
    def preempt(self, bundles: set[str], counts: bool) -> None:
        self.send(PreemptionDecided(at=0.0, bundle_ids=tuple(bundles), reason="room", counts=counts))

    @rule(number=st.integers(1, 4))
    def close_and_forget(self, number: int) -> None:
        study_id = f"study-{number}"
        known = set(self.state.trials)
        if study_id in self.state.studies and self.state.finished(study_id):
            self.state.studies[study_id] = replace(self.state.studies[study_id], ended_at=self.now)
        self.send(StudyForgotten(at=0.0, study_id=study_id))
        for trial_id in known - set(self.state.trials):
            del self.recorded.trials[trial_id]

    @rule()
    def lose_leader(self) -> None:
        self.send(LeaderLost(at=0.0, reason="killed"))

    @rule(number=st.integers(0, 3), name=st.integers(0, 5))
    def clone(self, number: int, name: int) -> None:
        for parent in [self.state.trials[t] for t in self.chosen({number})][:1]:
            own = stage(f"clone@{name}", parent.variant.stages[0])
            clone = replace(
                parent,
                trial_id=f"{parent.study_id}-clone-{name}",
                number=100 + name,
                variant=variant(parent.variant.stages[0], own),
                state=TrialState.QUEUED,
                stage_index=0,
                gpu_seconds=0.0,
                cloned_from=parent.trial_id,
            )
            demands = {s.key: demand() for s in clone.variant.stages}
            self.send(TrialsAdded(at=0.0, trials=(clone,), demands=demands))

    @rule(number=st.integers(0, 3), steps=st.integers(31, 33))
    def extend(self, number: int, steps: int) -> None:
        for trial in [self.state.trials[t] for t in self.chosen({number})][:1]:
            longer = stage(f"{trial.number}@{steps}", trial.variant.stages[0], steps=steps)
            new = variant(trial.variant.stages[0], longer)
            demands = {s.key: demand() for s in new.stages}
            self.send(TrialExtended(at=0.0, trial_id=trial.trial_id, variant=new, demands=demands))

    def chosen(self, numbers: set[int]) -> tuple[str, ...]:
        return tuple(t.trial_id for t in self.state.trials.values() if t.number in numbers)

    @rule(index=st.integers(0, 200))
    def repeat(self, index: int) -> None:
        """Anything that happened or was asked for, once more and at another time. A study that was forgotten is not
        submitted again: its command has been answered."""
        repeatable = [
            e
            for e in self.history
            if not isinstance(e, PlacementsDecided)
            and not (isinstance(e, StudySubmitted) and e.study.study_id not in self.state.studies)
        ]
        if repeatable:
            self.send(repeatable[index % len(repeatable)])

    @invariant()
    def holds(self) -> None:
        validate(self.state)
        assert self.recorded.trials == {t.trial_id: t.state for t in self.state.trials.values()}
        assert {b for b, opens in self.recorded.ledger.items() if opens} == set(self.state.bundles)


EventSequences.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestEventSequences = EventSequences.TestCase
