"""What a store's queue looks like to whoever asks: the leader's own policies over the store's own state.

Nobody but the leader decides anything; this restores what it would see, and what it would do next.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.accounting import charged, charges, seats
from orchestrator.forecast import Expectation, forecast
from orchestrator.loop import Policies
from orchestrator.ordering import fifo
from orchestrator.packing import BestFit
from orchestrator.ports import Store
from orchestrator.recovery import view
from orchestrator.schema import NO_CHARGE, Charge, Lease, Request, StageState, Trial, TrialState
from orchestrator.service.leadership import is_gone
from orchestrator.service.rooms import build_policies
from orchestrator.service.sharing_file import NOTHING_MEASURED, Sharing
from orchestrator.sharing.preemption import never
from orchestrator.sharing.quota import admit
from orchestrator.snapshot import Snapshot
from orchestrator.state import SchedulerState
from orchestrator.state.records import StageRecord
from orchestrator.state.snapshots import pending_reason

# A leader gives a sign of life every second; one that was silent for so long serves no more.
SILENT_S = 10.0

NOBODY_SERVES = "a service: none runs, start one with `orchestrator serve`"


def is_served(lease: Lease, at: float) -> bool:
    """Whether somebody leads, as far as that can be told at `at` [s since the epoch]."""
    return lease.holder is not None and at - lease.beat_at <= SILENT_S and not is_gone(lease.holder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """`service_order` is the queue in the order of service, those `held_back` (reasons by stage key) at its end.
    `positions`: places in it by stage key, from 1. `expected`: by trial id, of whom something can be said.
    `sharing`: what the leader has measured of work that shares devices, and barred."""

    at: float
    lease: Lease
    served: bool
    policies: Policies
    state: SchedulerState
    snapshot: Snapshot
    admitted: Sequence[Request]
    held_back: dict[str, str]
    service_order: Sequence[Request]
    positions: dict[str, int]
    expected: dict[str, Expectation]
    sharing: Sharing = NOTHING_MEASURED
    reasons: dict[tuple[object, ...], str] = field(default_factory=dict)
    charges: dict[str, Mapping[str, Charge]] = field(default_factory=dict)

    def stage_of(self, trial: Trial) -> StageRecord | None:
        """The stage that the trial waits for, runs, or would go on with; None once all are done."""
        if trial.stage_index == len(trial.variant.stages):
            return None
        return self.state.stages[trial.variant.stages[trial.stage_index].key]

    def position_of(self, trial: Trial) -> int | None:
        """The place in the queue of what a queued trial waits for; None if that runs, or the trial isn't queued."""
        record = self.stage_of(trial)
        if trial.state is not TrialState.QUEUED or record is None:
            return None
        return self.positions.get(record.stage.key)

    def why(self, trial: Trial) -> str:
        """Why a queued trial waits, and why nobody can say when it starts if that is so; empty for any other."""
        record = self.stage_of(trial)
        if trial.state is not TrialState.QUEUED or record is None:
            return ""
        if not self.served:
            return NOBODY_SERVES
        if self.state.studies[trial.study_id].device_kind is None:
            return "the service to take the study in"
        unknown = "" if trial.trial_id in self.expected else f"; {self._why_unknown(record)}"
        return f"{self._waits_for(trial, record)}{unknown}"

    def gpu_seconds(self, trial: Trial) -> float:
        """What the trial is charged, its part of vacated seats included [device-seconds]."""
        if trial.study_id not in self.charges:
            lines = self.state.allocations_about(trial.study_id)
            self.charges[trial.study_id] = charges(lines, seats(lines, self.at), self.at)
        return charged(trial, self.charges[trial.study_id].get(trial.trial_id, NO_CHARGE)).gpu_seconds

    def _waits_for(self, trial: Trial, record: StageRecord) -> str:
        """Asked once per kind of request: thousands of trials wait for the same."""
        kind = (record.bundle_id, record.demand, self.held_back.get(record.stage.key))
        if kind not in self.reasons:
            self.reasons[kind] = pending_reason(self.state, trial.trial_id, self.held_back)
        return self.reasons[kind]

    def _why_unknown(self, record: StageRecord) -> str:
        if record.stage.key in self.held_back:
            return "nobody can say when it may start"
        if self.state.durations.expected_s(record.stage) is None:
            return "nobody can say when: no stage has run long enough yet to tell how long one takes"
        return "nobody can say when: it waits behind, or for, one that can't be told"


def outlook(store: Store, at: float, study_ids: Collection[str] = (), sharing: Sharing = NOTHING_MEASURED) -> Outlook:
    """All that is open in the store, and `study_ids`, open or not, at `at` [s since the epoch]."""
    lease = store.lease()
    served = is_served(lease, at)
    policies = (
        build_policies(lease.config) if lease.config else Policies(ordering=fifo, packing=BestFit(), preemption=never)
    )
    state = policies.new_state(max_attempts=1)
    view(state, store, at, study_ids)
    state.room.bar(sharing.conflicts())
    snapshot = state.snapshot(at)
    served_next, held_back = admit(policies.ordering(state.without_impossible(snapshot)), snapshot)
    admitted = list(served_next)
    behind = [request for request in snapshot.queue if request.stage_key in held_back]
    order = [*admitted, *behind]
    fusion = policies.fusion
    joined = admitted if fusion is None else fusion.join(snapshot, state.widths, admitted).requests
    return Outlook(
        at=at,
        lease=lease,
        served=served,
        policies=policies,
        state=state,
        snapshot=snapshot,
        admitted=admitted,
        held_back=held_back,
        service_order=order,
        positions={request.stage_key: place for place, request in enumerate(order, start=1)},
        expected=forecast(state, joined, at) if served else {},
        sharing=sharing,
    )


def is_shared_run(record: StageRecord, trial: Trial) -> bool:
    """Whether another trial runs the stage that this one waits for."""
    return record.state is StageState.RUNNING and record.waiters[0] != trial.trial_id
