"""What policies get to see of the event machine: the queue, the residents, who holds what."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.history import Durations
from orchestrator.schema import Resident, Tenant, TenantUse, Trial, TrialState
from orchestrator.snapshot import Snapshot
from orchestrator.state.queue import WaitingRequests
from orchestrator.state.records import Bundle, StageRecord

if TYPE_CHECKING:
    from orchestrator.state.machine import SchedulerState


def snapshot_of(state: "SchedulerState", at: float, without: Collection[str] = ()) -> Snapshot:
    """What ordering, sharing and packing policies look at. `without`: bundles that don't count as residents."""
    state.queue.renew(at)
    return Snapshot(
        at=at,
        room=state.room.now(),
        residents=lambda: tuple(_resident(b, state, at) for key, b in state.bundles.items() if key not in without),
        queue=WaitingRequests(state.queue),
        tenants=lambda: _uses(state, at),
        arrivals=state.arrivals,
        has_quotas=any(tenant.quota is not None for tenant in state.tenants.values()),
        lowest_priority=lambda: min(state.priorities, default=None),
    )


def _resident(bundle: Bundle, state: "SchedulerState", at: float) -> Resident:
    record = state.stages[bundle.launch.stage.key]
    opened_at = bundle.allocation.opened_at
    leader = state.trials[record.waiters[0]]
    request = bundle.request
    if request.preemptions != leader.preemptions or request.trial_ids != tuple(record.waiters):
        request = bundle.request = replace(request, preemptions=leader.preemptions, trial_ids=tuple(record.waiters))
    return Resident(
        bundle_id=bundle.launch.bundle_id,
        placement=bundle.launch.placement,
        request=request,
        opened_at=opened_at,
        unsaved_s=max(0.0, at - bundle.saved_at),
        expected_end_at=expected_end_at(bundle, record, state.durations),
        stopping=bundle.stopping,
    )


def expected_end_at(bundle: Bundle, record: StageRecord, durations: Durations) -> float | None:
    """When a bundle will be done [s since the epoch]: what it was expected to take in all, from when it was placed."""
    expected = durations.expected_s(record.stage, 1.0 - record.progress, bundle.width)
    return None if expected is None else bundle.allocation.opened_at + expected


def _uses(state: "SchedulerState", at: float) -> dict[str, TenantUse]:
    names = {*state.tenants, *state.usage.tenants(), *(study.tenant for study in state.studies.values())}
    return {
        name: TenantUse(
            tenant=state.tenants.get(name) or Tenant(name=name),
            held=state.usage.held(name),
            used=state.usage.used(name, at),
        )
        for name in sorted(names)
    }


def pending_reason(state: "SchedulerState", trial_id: str, held_back: Mapping[str, str]) -> str:
    """What a queued trial waits for, in words; empty for any other. `held_back`: reasons by stage key, as
    `sharing.quota.admit` gives them."""
    trial = state.trials[trial_id]
    if trial.state is not TrialState.QUEUED:
        return ""
    record = state.stages[trial.variant.stages[trial.stage_index].key]
    if record.bundle_id:
        leader = state.trials[record.waiters[0]]
        return f"stage {record.stage.name}, which trial {leader.number} runs for all that share it"
    if record.stage.key in held_back:
        return held_back[record.stage.key]
    if not state.room.devices:
        return "devices: none has joined yet"
    if why := never_fits(state, trial):
        return f"{why}: it can't start here"
    demand = record.demand
    on = f"{len(state.bundles)} bundle(s) sit on {len(state.room.devices)}"
    return f"{demand.devices} device(s) with share {demand.share:g} free; {on}"


def never_fits(state: "SchedulerState", trial: Trial) -> str:
    """What the trial's current stage needs that no node here has, in words; empty if some node has it all."""
    return state.feasibility.why_never(state.stages[trial.variant.stages[trial.stage_index].key].demand)
