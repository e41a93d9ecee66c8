"""What policies get to see of the event machine: the queue, the residents, who holds what."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.durations import Durations
from orchestrator.schema import (
    Demand,
    Request,
    Resident,
    Snapshot,
    Study,
    Tenant,
    TenantUse,
    Trial,
    TrialState,
)
from orchestrator.state.records import Bundle, StageRecord

if TYPE_CHECKING:
    from orchestrator.state.machine import SchedulerState

# Requests are made anew when durations have been learned, but not more often than this, and no more than so many of
# them in one cycle: ten thousand take 60 ms.
_RENEW_S, _RENEW_AT_ONCE = 2.0, 1_000


class Queue:
    """Stages that wait for devices, in order of arrival. Sorted, and asked what they want, only where it changed."""

    def __init__(self) -> None:
        self._records: dict[str, StageRecord] = {}
        self._sorted: list[StageRecord] | None = None
        self._learned = -1
        self._renewed_at = float("-inf")
        self._stale: deque[StageRecord] = deque()

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: StageRecord) -> None:
        """The stage waits, or who waits for it has changed."""
        record.request = None
        self._records[record.stage.key] = record
        self._sorted = None

    def remove(self, record: StageRecord) -> None:
        """The stage waits no more; one that did not is fine."""
        record.request = None
        if self._records.pop(record.stage.key, None) is not None and self._sorted is not None:
            self._sorted = None

    def requests(
        self, trials: Mapping[str, Trial], studies: Mapping[str, Study], durations: Durations, at: float
    ) -> tuple[Request, ...]:
        """By arrival; ties by the number of the trial that would lead."""
        due = at - self._renewed_at >= _RENEW_S and not self._stale
        if durations.revision != self._learned and due:
            self._learned, self._renewed_at = durations.revision, at
            self._stale = deque(self._records.values())
        for _ in range(min(_RENEW_AT_ONCE, len(self._stale))):
            self._stale.popleft().request = None
        if self._sorted is None:
            self._sorted = sorted(self._records.values(), key=lambda r: (r.queued_at, trials[r.waiters[0]].number))
        for record in self._sorted:
            if record.request is None:
                record.request = request_of(record, trials, studies, durations)
        return tuple(record.request for record in self._sorted if record.request is not None)


def request_of(
    record: StageRecord, trials: Mapping[str, Trial], studies: Mapping[str, Study], durations: Durations
) -> Request:
    """What the stage asks for, in the name of the trial that would lead it."""
    leader = trials[record.waiters[0]]
    study = studies[leader.study_id]
    return Request(
        stage_key=record.stage.key,
        study_id=leader.study_id,
        trial_ids=tuple(record.waiters),
        demand=record.demand,
        queued_at=record.queued_at,
        tenant=study.tenant,
        priority=study.priority,
        expected_s=durations.expected_s(record.stage, 1.0 - record.progress),
        preemptions=leader.preemptions,
    )


def snapshot_of(state: "SchedulerState", at: float) -> Snapshot:
    """What ordering, sharing and packing policies look at."""
    return Snapshot(
        at=at,
        devices=state.room.free(),
        residents=tuple(_resident(bundle, state, at) for bundle in state.bundles.values()),
        queue=state.queue.requests(state.trials, state.studies, state.durations, at),
        capacity=state.room.capacity(),
        tenants=_uses(state, at),
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
    expected = durations.expected_s(record.stage, 1.0 - record.progress)
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
    return impossible(state, state.stages[trial.variant.stages[trial.stage_index].key].demand)


def impossible(state: "SchedulerState", demand: Demand) -> str:
    """What a demand asks for that no node here has, in words; empty if some node has it all."""
    devices = state.room.devices.values()
    fitting = [device for device in devices if device.memory_bytes >= demand.memory_bytes]
    if not fitting:
        largest = max((device.memory_bytes for device in devices), default=0)
        return (
            f"a device with {demand.memory_bytes / 2**30:.1f} GiB, the largest has {largest / 2**30:.1f}; use a "
            "smaller model or batch, or bf16"
        )
    most = _most_on_a_node(device.node_id for device in fitting)
    if demand.devices > most:
        return (
            f"{demand.devices} devices on one node, and no node has more than {most}; lower cluster.devices_per_trial"
        )
    return ""


def _most_on_a_node(node_ids: Iterable[str]) -> int:
    counts: dict[str, int] = {}
    for node_id in node_ids:
        counts[node_id] = counts.get(node_id, 0) + 1
    return max(counts.values(), default=0)
