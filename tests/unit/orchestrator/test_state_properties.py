"""Random event sequences, repeated and out of place, never break an invariant of the event machine."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from orchestrator.events import (
    BundleStarted,
    BundleStopped,
    EndRequested,
    Event,
    NodeLost,
    PlacementsDecided,
    StageCompleted,
    StageRaised,
    StageReported,
    WorkerLost,
)
from orchestrator.packing import PACKINGS
from orchestrator.schema import Outcome, TrialState
from orchestrator.state import SchedulerState
from tests.unit.orchestrator.builders import joined, submitted

BUNDLES = st.integers(0, 30).map(str)


class EventSequences(RuleBasedStateMachine):
    """Time moves on by one at every event; bundles are named 0, 1, 2, ... as they are launched."""

    def __init__(self) -> None:
        super().__init__()
        self.state = SchedulerState(max_attempts=2)
        self.now = 0.0
        self.launched = 0
        self.studies = 0
        self.history: list[Event] = []

    def send(self, event: Event) -> None:
        self.now += 1.0
        self.state.handle(replace(event, at=self.now))
        self.history.append(event)

    @rule(count=st.integers(1, 4), share=st.sampled_from([0.25, 0.5, 1.0]), gang=st.integers(1, 2))
    def submit(self, count: int, share: float, gang: int) -> None:
        self.studies += 1
        self.send(submitted(count, share, gang, study_id=f"study-{self.studies}"))

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

    @rule(numbers=st.sets(st.integers(0, 3)), into=st.sampled_from([TrialState.CANCELLED, TrialState.PRUNED]))
    def end(self, numbers: set[int], into: TrialState) -> None:
        chosen = tuple(t.trial_id for t in self.state.trials.values() if t.number in numbers)
        self.send(EndRequested(at=0.0, trial_ids=chosen, into=into, reason="asked"))

    @rule(index=st.integers(0, 50))
    def repeat(self, index: int) -> None:
        bundle_events = [e for e in self.history if hasattr(e, "bundle_id")]
        if bundle_events:
            self.send(bundle_events[index % len(bundle_events)])

    @invariant()
    def holds(self) -> None:
        self.state.validate()


EventSequences.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestEventSequences = EventSequences.TestCase
