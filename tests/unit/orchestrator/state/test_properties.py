"""Random event sequences, repeated, reordered and out of place, never break an invariant of the event machine.

Every instruction is also applied to a store that compares and sets: one that doesn't fit what is recorded, or that
asks for a transition that doesn't exist, fails the test.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.events import (
    BundleStarted,
    BundleStopped,
    Event,
    HaltRequested,
    Instruction,
    LeaderLost,
    MemoryExceeded,
    NodeLost,
    PlacementsDecided,
    PreemptionDecided,
    QueueRequested,
    RecordAllocation,
    RecordTrial,
    StageCompleted,
    StageMeasured,
    StageRaised,
    StageReported,
    StageSaved,
    StudyForgotten,
    StudySubmitted,
    TrialExtended,
    TrialsAdded,
    WorkerLost,
)
from orchestrator.fusion import Fusion
from orchestrator.interference import Interference, Rules, Slice
from orchestrator.packing import PACKINGS
from orchestrator.schema import Demand, EarlyStop, Fate, Outcome, Placement, TrialState
from orchestrator.state import SchedulerState, validate
from tests.unit.orchestrator.builders import GIB, demand, joined, stage, submitted, variant

# Quick to judge, so that bars come and go within a few events.
HASTY = Rules(
    slice_s=1.0, least_slices=1, margin=0.0, judge_every_s=1.0, retry_s=20.0, least_left_s=0.0, apart_after_s=5.0,
    apart_slices=1,
)  # fmt: skip
# Four in five are one of those that run, the others one that was, or never will be.
BUNDLES = st.tuples(st.integers(0, 4), st.integers(0, 30))
SHARES = st.sampled_from([0.25, 0.5, 1.0])
KINDS = st.sampled_from(["sft", "grpo"])
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
        self.state = SchedulerState(max_attempts=2, max_memory_raises=2, fuses=True)
        self.state.interference = Interference(HASTY)
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

    @initialize(count=st.integers(1, 4), share=SHARES, kind=KINDS)
    def begin(self, count: int, share: float, kind: str) -> None:
        """Last stages run, or wait, behind a warm-up that is done."""
        self.join("node-a", 0)
        self.submit(count, share, 1, kind, 0.0, 0.0)
        self.pack("best_fit")
        self.complete((1, 0))
        self.pack("best_fit")

    @rule(
        count=st.integers(1, 4),
        share=SHARES,
        gang=st.integers(1, 2),
        kind=st.sampled_from(["", "sft", "grpo"]),
        cap=st.sampled_from([0.0, 1.1]),
        stated_gib=st.sampled_from([0.0, 1.0]),
        fusable=st.booleans(),
    )
    def submit(
        self, count: int, share: float, gang: int, kind: str, cap: float, stated_gib: float, fusable: bool = False
    ) -> None:
        self.studies += 1
        event = submitted(count, share, gang, study_id=f"study-{self.studies}", fusable=fusable)
        asked = Demand(
            devices=gang, share=share, memory_bytes=GIB, cpus=gang * share, host_memory_bytes=gang * GIB,
            kind=kind, max_slowdown=cap,
        )  # fmt: skip
        config = {"cluster": {"memory_per_trial_gib": stated_gib}}
        event = replace(
            event, study=replace(event.study, config=config), demands=dict.fromkeys(event.demands, asked)
        )  # fmt: skip
        self.recorded.trials |= {trial.trial_id: trial.state for trial in event.trials}
        self.send(event)

    @rule(node=st.sampled_from(["node-a", "node-b"]), host_gib=st.sampled_from([0, 16]))
    def join(self, node: str, host_gib: int) -> None:
        self.send(replace(joined(2, node), cpus=2.0 if host_gib else 0.0, host_memory_bytes=host_gib * GIB))

    @precondition(lambda self: self.state.bundles)
    @rule(node=st.sampled_from(["node-a", "node-b"]))
    def lose_node(self, node: str) -> None:
        self.send(NodeLost(at=0.0, node_id=node, reason="gone"))

    @rule(policy=st.sampled_from(sorted(PACKINGS)))
    def pack(self, policy: str) -> None:
        snapshot = self.state.snapshot(self.now)
        self.start(tuple(PACKINGS[policy]()(snapshot, snapshot.queue)))

    @rule(policy=st.sampled_from(["best_fit", "exclusive", "frontier"]), width=st.integers(1, 4))
    def fuse(self, policy: str, width: int) -> None:
        """Seats that are free are filled, those that wait are joined, and placed as one."""
        fusion = Fusion(max_width=width)
        snapshot = self.state.snapshot(self.now)
        self.start(fusion.fill(snapshot, self.state.stacks.all(), snapshot.queue))
        snapshot = self.state.snapshot(self.now)
        plan = fusion.join(snapshot, self.state.widths, snapshot.queue)
        self.start(plan.seats(tuple(PACKINGS[policy]()(snapshot, plan.requests)), lambda: f"stack-{self.launched}"))

    def start(self, placements: Sequence[Placement]) -> None:
        names = tuple(str(self.launched + n) for n in range(len(placements)))
        self.launched += len(placements)
        self.send(PlacementsDecided(at=0.0, placements=tuple(placements), bundle_ids=names))

    @rule(bundle=BUNDLES, progress=st.floats(0, 1))
    def report(self, bundle: tuple[int, int], progress: float) -> None:
        name = self.picked(bundle)
        self.send(BundleStarted(at=0.0, bundle_id=name))
        self.send(StageReported(at=0.0, bundle_id=name, step=1, metrics={"train/loss": 1.0}, progress=progress))

    @rule(paces=st.lists(st.sampled_from([0.001, 0.02]), min_size=4, max_size=4), times=st.integers(1, 8))
    def work(self, paces: list[float], times: int) -> None:
        """Whoever fits starts, and all that run report, over and over, each at its own pace."""
        self.pack("best_fit")
        for _ in range(times):
            for bundle, pace in zip(list(self.state.bundles.values()), itertools.cycle(paces), strict=False):
                name, progress = bundle.launch.bundle_id, bundle.progress + pace
                self.send(StageReported(at=0.0, bundle_id=name, step=1, metrics={}, progress=progress))

    @rule(kind=KINDS, other=KINDS, slower=st.sampled_from([1.0, 3.0]))
    def slow_each_other_down(self, kind: str, other: str, slower: float) -> None:
        """What was measured of two kinds, each beside the other; whoever reports next has it judged."""
        for one, beside in {(kind, other), (other, kind)}:
            for neighbours, seconds in (((), 1.0), (((beside, 0.5),), slower)):
                seen = Slice(
                    unit=one, kind=one, share=0.5, neighbours=neighbours, steps=1.0, seconds=seconds, at=self.now
                )
                for _ in range(5):
                    self.state.interference.model.observe(seen)

    @rule()
    def undo_sharing(self) -> None:
        for event in self.state.sharing_to_undo(self.now):
            self.send(event)
        assert not self.state.sharing_to_undo(self.now)

    @rule(bundle=BUNDLES, memory_mib=st.integers(0, 9000), utilisation=st.none() | st.floats(0, 1))
    def measure(self, bundle: tuple[int, int], memory_mib: int, utilisation: float | None) -> None:
        name, taken = self.picked(bundle), memory_mib << 20
        self.send(
            StageMeasured(at=0.0, bundle_id=name, memory_bytes=taken, host_memory_bytes=taken, utilisation=utilisation)
        )

    @rule(bundle=BUNDLES)
    def complete(self, bundle: tuple[int, int]) -> None:
        self.send(StageCompleted(at=0.0, bundle_id=self.picked(bundle), outcome=Outcome(metrics={"accuracy": 0.5})))

    @rule(bundle=BUNDLES)
    def fail(self, bundle: tuple[int, int]) -> None:
        self.send(StageRaised(at=0.0, bundle_id=self.picked(bundle), error="boom"))

    @rule(bundle=BUNDLES)
    def lose(self, bundle: tuple[int, int]) -> None:
        self.send(WorkerLost(at=0.0, bundle_id=self.picked(bundle), reason="killed"))

    @rule(bundle=BUNDLES, mib=st.integers(1, 3000), on_host=st.booleans())
    def exceed(self, bundle: tuple[int, int], mib: int, on_host: bool) -> None:
        name, limit = self.picked(bundle), GIB
        if name in self.state.bundles:
            placement = self.state.bundles[name].launch.placement
            limit = placement.host_memory_bytes if on_host else placement.memory_bytes
        used = limit + mib * 2**20
        self.send(MemoryExceeded(at=0.0, bundle_id=name, used_bytes=used, limit_bytes=limit, on_host=on_host))

    @rule(bundle=BUNDLES)
    def stop(self, bundle: tuple[int, int]) -> None:
        self.send(BundleStopped(at=0.0, bundle_id=self.picked(bundle)))

    @rule(bundle=BUNDLES, step=st.integers(0, 30))
    def save(self, bundle: tuple[int, int], step: int) -> None:
        self.send(StageSaved(at=0.0, bundle_id=self.picked(bundle), step=step))

    @rule(numbers=NUMBERS, into=st.sampled_from([TrialState.CANCELLED, TrialState.PRUNED, TrialState.PAUSED]))
    def halt(self, numbers: set[int], into: TrialState) -> None:
        self.send(HaltRequested(at=0.0, trial_ids=self.chosen(numbers), into=into, reason="asked"))

    @rule(numbers=NUMBERS, retry=st.booleans())
    def queue_again(self, numbers: set[int], retry: bool) -> None:
        self.send(QueueRequested(at=0.0, trial_ids=self.chosen(numbers), retry=retry))

    @rule(numbers=NUMBERS, drawn=st.booleans())
    def hold(self, numbers: set[int], drawn: bool) -> None:
        """A stopping policy holds trials; those of which a person said something it leaves as they are."""
        chosen, leaving = self.chosen(numbers), dict(self.state.leaving)
        stop = EarlyStop(policy="median", rung=0, confidence=0.9, gpu_seconds=0.0, why="behind", drawn=drawn)
        was = {t: self.state.trials[t] for t in chosen}
        self.send(HaltRequested(at=0.0, trial_ids=chosen, into=TrialState.PAUSED, reason="behind", stop=stop))
        for trial_id in chosen:
            if was[trial_id].state is TrialState.PAUSED or trial_id in leaving:
                assert self.state.trials[trial_id] == was[trial_id]

    @rule(numbers=NUMBERS, fate=st.sampled_from([Fate.PROMOTED, Fate.FINISHING]))
    def let_go_on(self, numbers: set[int], fate: Fate) -> None:
        """A stopping policy lets those go on that it holds, and nobody whom a person has paused."""
        chosen = self.chosen(numbers)
        paused = [self.state.trials[t] for t in chosen if self.state.trials[t].state is TrialState.PAUSED]
        self.send(QueueRequested(at=0.0, trial_ids=chosen, fate=fate))
        for trial in paused:
            assert (self.state.trials[trial.trial_id].state is TrialState.PAUSED) == (not trial.held)

    @rule(numbers=NUMBERS)
    def prune_those_that_are_held(self, numbers: set[int]) -> None:
        """Of those that are paused, a stopping policy prunes its own only."""
        paused = [t for t in self.chosen(numbers) if self.state.trials[t].state is TrialState.PAUSED]
        held = {t for t in paused if self.state.trials[t].held}
        self.send(HaltRequested(at=0.0, trial_ids=tuple(paused), into=TrialState.PRUNED, reason="behind"))
        assert {t for t in paused if self.state.trials[t].state is TrialState.PRUNED} == held

    @rule(bundles=st.sets(BUNDLES), counts=st.booleans())
    def preempt(self, bundles: set[tuple[int, int]], counts: bool) -> None:
        names = tuple(self.picked(bundle) for bundle in sorted(bundles))
        self.send(PreemptionDecided(at=0.0, bundle_ids=names, reason="room", counts=counts))

    @rule(number=st.integers(1, 4))
    def close_and_forget(self, number: int) -> None:
        study_id = f"study-{number}"
        known = set(self.state.trials)
        if study_id in self.state.studies and self.state.finished(study_id):
            self.state.studies[study_id] = replace(self.state.studies[study_id], ended_at=self.now)
        self.send(StudyForgotten(at=0.0, study_id=study_id))
        for trial_id in known - set(self.state.trials):
            del self.recorded.trials[trial_id]

    @precondition(lambda self: self.state.bundles)
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

    def picked(self, bundle: tuple[int, int]) -> str:
        kind, number = bundle
        running = list(self.state.bundles)
        return running[number % len(running)] if running and kind else str(number)

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

    @invariant()
    def whoever_is_paused_is_held_by_a_policy_or_a_person(self) -> None:
        for trial in self.state.trials.values():
            if trial.state is TrialState.PAUSED and trial.stopped is not None:
                assert trial.stopped.fate in (Fate.HELD, Fate.OVERRULED)

    @invariant()
    def nobody_is_raised_beyond_the_rules(self) -> None:
        largest = self.state.room.largest_memory_bytes()
        for record in self.state.queue.records():
            assert record.raises <= self.state.max_memory_raises
            peak = self.state.memory.peak(record.stage, record.demand.devices)
            seen = GIB if peak is None else max(GIB, peak.memory_bytes)
            assert not largest or record.demand.memory_bytes <= max(seen, largest)


EventSequences.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestEventSequences = EventSequences.TestCase
