"""The event machine: `handle(event) -> instructions`.

What it guarantees, and `validation.validate` checks: no device holds more than one whole share or its memory; a stage
key runs in at most one bundle; every running bundle has exactly one open line in the ledger of device-seconds; a trial
that is queued or running waits for, or runs, exactly its current stage; the closed ledger equals what the trials were
charged.

Words: trials *wait* for a stage; the first of them is its *leader* and is `running` while the stage runs, the others
share the run and stay `queued`; when the leader leaves, the next one leads. A stage nobody waits for is not started;
one that is running is stopped when its last waiter leaves. Events of bundles that are over are ignored, so late and
duplicated events are harmless, and so are requests that the trials they name can't follow.
"""

from collections.abc import Collection

from orchestrator.events import (
    BundleStarted,
    BundleStopped,
    Event,
    HaltRequested,
    Instruction,
    LeaderLost,
    LedgerRestored,
    MemoryExceeded,
    NodeJoined,
    NodeLost,
    PlacementsDecided,
    PreemptionDecided,
    QueueRequested,
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
from orchestrator.schema import Allocation, Request, StageState, Trial, TrialState
from orchestrator.snapshot import Snapshot
from orchestrator.state import bundles, neighbours, trials
from orchestrator.state.core import MachineCore
from orchestrator.state.queue import WaitingRequests
from orchestrator.state.snapshots import snapshot_of


class SchedulerState(MachineCore):
    """Studies, trials, stages, devices and bundles, changed by `handle` alone."""

    # --- events ------------------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Instruction]:
        """Change the state by one event and say what to record, launch and stop, in that order."""
        match event:
            case StudySubmitted():
                return trials.submit(self, event)
            case LedgerRestored():
                return trials.restore_ledger(self, event)
            case TrialsAdded():
                return trials.add_trials(self, event)
            case TrialExtended():
                return trials.extend(self, event)
            case StudyForgotten():
                return trials.forget(self, event)
            case NodeJoined():
                self.room.join(event)
                self.nodes_changed()
                return []
            case NodeLost():
                return bundles.lose_node(self, event)
            case LeaderLost():
                return bundles.lose_leader(self, event)
            case PlacementsDecided():
                return bundles.place(self, event)
            case PreemptionDecided():
                return bundles.preempt(self, event)
            case HaltRequested():
                return trials.halt(self, event)
            case QueueRequested():
                return trials.queue_again(self, event)
            case _:
                bundle = self.bundles.get(event.bundle_id)
                if bundle is None:
                    return []
        match event:
            case BundleStarted():
                return []
            case StageReported():
                return bundles.report(self, bundle, event)
            case StageSaved():
                return bundles.saved(self, bundle, event)
            case StageMeasured():
                return bundles.measured(self, bundle, event)
            case MemoryExceeded():
                return bundles.exceeded(self, bundle, event)
            case StageCompleted():
                return bundles.complete(self, bundle, event)
            case StageRaised():
                return bundles.fail(self, bundle, event.at, event.error)
            case WorkerLost():
                return bundles.lose_worker(self, bundle, event.at, event.reason, blameless=event.blameless)
            case BundleStopped():
                return bundles.stopped(self, bundle, event)

    # --- questions ---------------------------------------------------------------------------------------------------

    def snapshot(self, at: float, *, without: Collection[str] = ()) -> Snapshot:
        """What ordering, sharing and packing policies look at: devices by node and index, the queue by arrival.
        `without`: bundles that don't count as residents."""
        return snapshot_of(self, at, without)

    def without_impossible(self, snapshot: Snapshot) -> Snapshot:
        """Without the requests that no node here can ever meet: they wait for one that may come, and hold nobody up."""
        never = self.queue.impossible()
        return snapshot.but(queue=WaitingRequests(self.queue, never)) if never else snapshot

    def drawn_requests(self) -> list[Request]:
        """Trials that a stopping policy holds and has drawn to be finished, as the requests that they would be. One
        whose study is paused, or whose stage others ask for, is none."""
        requests = []
        for trial in map(self.trials.__getitem__, self.drawn):
            record = self.stages[trial.variant.stages[trial.stage_index].key]
            going = self.counts[trial.study_id][TrialState.RUNNING] + self.counts[trial.study_id][TrialState.QUEUED]
            if going and record.state is StageState.ABSENT and not record.waiters and not self.lacks_inputs(trial):
                requests.append(self.request_of(record, (trial.trial_id,)))
        return requests

    def sharing_to_undo(self, at: float) -> list[PreemptionDecided]:
        """Who leaves a device that is shared to nobody's good, as far as it was measured."""
        if not self.interference.bars:
            return []
        return neighbours.undoing(self, self.snapshot(at).residents, at)

    def study_trials(self, study_id: str) -> list[Trial]:
        """The study's trials by number."""
        return [self.trials[trial_id] for trial_id in self.study_trial_ids[study_id]]

    def allocations(self, study_id: str) -> list[Allocation]:
        """The study's lines of the ledger, closed ones first."""
        return self.ledger.of(study_id)

    def allocations_about(self, study_id: str) -> list[Allocation]:
        """Those, and the lines of others that say what its stacks left; closed ones first."""
        return self.ledger.about(study_id)

    def finished(self, study_id: str) -> bool:
        """Whether every trial of the study is over."""
        return all(state.terminal or not count for state, count in self.counts[study_id].items())
