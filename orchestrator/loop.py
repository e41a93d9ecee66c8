"""The only place where decisions meet I/O. One scheduling cycle reads as numbered steps.

A cycle takes what happened from the cluster, lets the event machine decide what it means, orders and packs the queue
over one snapshot, commits every change to the store, and only then acts on it.
"""

import logging
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from orchestrator.events import (
    EndRequested,
    Event,
    Instruction,
    Launch,
    PlacementsDecided,
    RecordAllocation,
    RecordStage,
    RecordStudy,
    RecordTrial,
    Stop,
    StudySubmitted,
    TrackMetrics,
)
from orchestrator.ordering import OrderingPolicy
from orchestrator.packing import PackingPolicy
from orchestrator.ports import Clock, Cluster, Store, Tracker
from orchestrator.schema import Allocation, Demand, Outcome, Study, Trial, TrialState, Variant
from orchestrator.state import SchedulerState
from orchestrator.stopping import StoppingPolicy

logger = logging.getLogger(__name__)


class SchedulingLoop:
    """Runs studies on a cluster until they are over.

    max_attempts: how often a stage may be lost with its worker before its trials fail.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        store: Store,
        tracker: Tracker,
        clock: Clock,
        ordering: OrderingPolicy,
        packing: PackingPolicy,
        stopping: StoppingPolicy,
        max_attempts: int,
    ) -> None:
        self.state = SchedulerState(max_attempts=max_attempts)
        self._cluster = cluster
        self._store = store
        self._tracker = tracker
        self._clock = clock
        self._ordering = ordering
        self._packing = packing
        self._stopping = stopping

    def wait_for_devices(self, timeout_s: float) -> None:
        """Poll until the first node has joined. Raises TimeoutError."""
        deadline = self._clock.now() + timeout_s
        while not self.state.devices:
            if self._clock.now() > deadline:
                raise TimeoutError(f"no node offered a device within {timeout_s:.0f} s")
            self._carry_out(self._decide(self._cluster.poll(timeout_s=1.0)))

    def submit(self, study: Study, variants: Sequence[Variant], demands: Mapping[str, Demand], *, reuse: bool) -> None:
        """Queue a new study's trials. With `reuse`, shared stages that an earlier study completed are taken from
        there; a variant's last stage always runs: it is the experiment that was asked for."""
        trials = tuple(
            Trial(
                trial_id=f"{study.study_id}-{number:04d}",
                study_id=study.study_id,
                number=number,
                variant=variant,
                submitted_at=study.submitted_at,
            )
            for number, variant in enumerate(variants)
        )
        prefixes = {stage.key for variant in variants for stage in variant.stages[:-1]} if reuse else set()
        self._queue(study, trials, demands, self._outputs_at_hand(prefixes))

    def resume(self, study: Study, trials: Sequence[Trial], demands: Mapping[str, Demand], ended_at: float) -> None:
        """Queue what an earlier process, which ended at `ended_at`, left undecided. Its open allocations are closed
        at that time and charged; whatever its trials had completed is taken as it is."""
        study = replace(study, ended_at=None)
        ledger = []
        charged = {trial.trial_id: trial for trial in trials}
        for allocation in self._store.allocations(study.study_id):
            if allocation.closed_at is None:
                allocation = replace(allocation, closed_at=max(ended_at, allocation.opened_at))
                part = allocation.device_seconds(ended_at) / len(allocation.trial_ids)
                for trial_id in allocation.trial_ids:
                    trial = charged[trial_id]
                    charged[trial_id] = replace(trial, gpu_seconds=trial.gpu_seconds + part)
            ledger.append(allocation)
        self._store.apply([RecordAllocation(allocation=allocation) for allocation in ledger])
        at_hand = self._outputs_at_hand({s.key for trial in trials for s in trial.variant.stages[:-1]})
        again = tuple(_undecided(trial, at_hand) for trial in charged.values())
        self._queue(study, again, demands, at_hand, ledger=tuple(ledger))
        for trial in again:
            if trial.state.terminal:
                # The process that decided it may have died with the record still in its buffer.
                self._tracker.trial_changed(trial)

    def _outputs_at_hand(self, stage_keys: Collection[str]) -> dict[str, Outcome]:
        """Completed stages whose output is still there, with the outcome they gave."""
        known = self._store.completed_stages(sorted(stage_keys))
        there = self._cluster.available_outputs(list(known))
        return {key: outcome for key, outcome in known.items() if key in there}

    def _queue(
        self,
        study: Study,
        trials: tuple[Trial, ...],
        demands: Mapping[str, Demand],
        available: Mapping[str, Outcome],
        ledger: tuple[Allocation, ...] = (),
    ) -> None:
        event = StudySubmitted(
            at=self._clock.now(),
            study=study,
            trials=trials,
            demands=demands,
            available_stages=available,
            ledger=ledger,
        )
        self._tracker.study_started(study)
        self._carry_out(self._decide([event]))

    def cycle(self, timeout_s: float) -> None:
        """One scheduling cycle; waits at most `timeout_s` for something to happen."""
        # 1. What happened since the last cycle.
        events = self._cluster.poll(timeout_s)
        # 2. What it means.
        instructions = self._decide(events)
        # 3. Which trials have run long enough.
        instructions += self._decide(self._verdicts())
        # 4. Who goes next, and 5. onto which devices, over one snapshot.
        snapshot = self.state.snapshot(self._clock.now())
        if snapshot.queue:
            placements = tuple(self._packing(snapshot.devices, self._ordering(snapshot)))
            bundle_ids = tuple(uuid.uuid4().hex[:12] for _ in placements)
            decided = PlacementsDecided(at=self._clock.now(), placements=placements, bundle_ids=bundle_ids)
            instructions += self._decide([decided])
        # 6. Commit, then act.
        self._carry_out(instructions)

    def run(self, study_id: str, observe: Callable[[], None], cycle_s: float = 0.25) -> None:
        """Cycle until every trial of the study is over; `observe` is called after each cycle."""
        while not self.state.finished(study_id):
            self.cycle(cycle_s)
            observe()

    def end_study(self, study_id: str, reason: str, grace_s: float) -> None:
        """Cancel what isn't over yet, let running bundles reach a step boundary for `grace_s`."""
        trial_ids = tuple(t.trial_id for t in self.state.study_trials(study_id))
        now = self._clock.now()
        event = EndRequested(at=now, trial_ids=trial_ids, into=TrialState.CANCELLED, reason=reason)
        self._carry_out(self._decide([event]))
        while not self.state.finished(study_id) and self._clock.now() < now + grace_s:
            self._carry_out(self._decide(self._cluster.poll(timeout_s=0.25)))

    def close_study(self, study_id: str, ended_at: float) -> Study:
        """Note the study's end in the store."""
        study = replace(self.state.studies[study_id], ended_at=ended_at)
        self.state.studies[study_id] = study
        self._store.apply([RecordStudy(study=study)])
        return study

    def _decide(self, events: Iterable[Event]) -> list[Instruction]:
        return [instruction for event in events for instruction in self.state.handle(event)]

    def _verdicts(self) -> list[Event]:
        events: list[Event] = []
        for study_id in self.state.studies:
            stopped = tuple(self._stopping(self.state.study_trials(study_id)))
            if stopped:
                reason = f"stopped early by {getattr(self._stopping, '__name__', 'the stopping policy')}"
                now = self._clock.now()
                events.append(EndRequested(at=now, trial_ids=stopped, into=TrialState.PRUNED, reason=reason))
        return events

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        records = [i for i in instructions if isinstance(i, RecordStudy | RecordTrial | RecordStage | RecordAllocation)]
        self._store.apply(records)
        for instruction in instructions:
            match instruction:
                case RecordTrial(trial=trial, track=True):
                    self._tracker.trial_changed(trial)
                case TrackMetrics():
                    self._tracker.metrics(instruction.trial_id, instruction.step, instruction.metrics, instruction.at)
                case Launch():
                    logger.debug("launch %s: %s", instruction.bundle_id, instruction.placement)
                    self._cluster.launch(instruction)
                case Stop():
                    self._cluster.stop(instruction.bundle_id, instruction.reason)
                case _:
                    pass


def _undecided(trial: Trial, at_hand: Collection[str]) -> Trial:
    """The trial as it waits again, if it isn't over with an answer or a failure of its own. What it was charged, and
    the stages behind it whose outputs are at hand, stay."""
    if trial.state.decided or trial.state is TrialState.FAILED:
        return trial
    waiting = replace(trial, state=TrialState.QUEUED, progress=0.0, ended_at=None, error="")
    if all(stage.key in at_hand for stage in trial.variant.stages[: trial.stage_index]):
        return waiting
    return replace(waiting, stage_index=0, reused_stages=(), metrics={})
