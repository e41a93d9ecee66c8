"""Documents of a store as it stands: plain data, for whoever asks. Nothing is written.

Times are seconds since the epoch, fractions 0 to 1; null is what nobody can say. See README.md for the fields.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.accounting import own_and_beside
from orchestrator.control.explain import explanation
from orchestrator.control.logs import log_chunk
from orchestrator.control.outlook import Outlook, is_served, outlook
from orchestrator.ports import Store
from orchestrator.report.document import build_report
from orchestrator.report.gain import telling_stages
from orchestrator.report.progress import best_of, device_kind, end_of
from orchestrator.report.searched import search_entry
from orchestrator.schema import Command, Study, TenantUse, Trial, TrialState
from orchestrator.service.sharing_file import NOTHING_MEASURED, Sharing, bar_document
from orchestrator.state import Bundle
from orchestrator.state.snapshots import expected_end_at
from orchestrator.throughput import throughput

__all__ = ["explanation", "log_chunk", "report_document", "status_document", "studies_document"]

Document = dict[str, Any]


def status_document(store: Store, target: str, at: float, sharing: Sharing = NOTHING_MEASURED) -> Document:
    """Who leads, which devices there are and who sits on them, studies, trials, and commands that wait.

    `target` is a study's or a trial's id; "" is all that is open, or the last study if nothing is. Raises KeyError.
    """
    study_ids, trial_id = _chosen(store, target)
    seen = outlook(store, at, study_ids, sharing)
    trials = [trial for study_id in study_ids for trial in seen.state.study_trials(study_id)]
    shown = [seen.state.trials[trial_id]] if trial_id else trials
    return {
        "at": at,
        "service": _service(seen),
        "devices": _devices(seen),
        "studies": [_study(seen, seen.state.studies[study_id]) for study_id in study_ids],
        "trials": [_trial(seen, trial) for trial in shown],
        "commands": [_command(command, at) for command in store.pending_commands()],
    }


def studies_document(store: Store, at: float) -> list[Document]:
    """One entry per study, oldest first. `state`: over, running, queued or paused; `served`: whether a service runs,
    without which nothing goes on."""
    served = is_served(store.lease(), at)
    documents = []
    for study in store.studies():
        counts = _counts(store.trials(study.study_id))
        documents.append({**_heading(study, counts), "state": _study_state(counts), "served": served})
    return documents


def report_document(store: Store, study: Study, at: float, pairs: Sequence[Document] = ()) -> Document:
    """See `report.document`; `pairs` is its `sharing`."""
    study_id = study.study_id
    trials, ledger = store.trials(study_id), store.allocations_about(study_id)
    outcomes = store.completed_stages(telling_stages(trials))
    return build_report(study, trials, ledger, at, store.predictions(study_id), pairs, outcomes)


def _chosen(store: Store, target: str) -> tuple[list[str], str]:
    """The ids of the studies that are shown, and the trial if it is about one."""
    if not target:
        chosen = store.studies(open_only=True) or store.studies()[-1:]
        return [study.study_id for study in chosen], ""
    try:
        trial = store.trial(target)
    except KeyError:
        return [store.study(target).study_id], ""
    return [trial.study_id], trial.trial_id


def _service(seen: Outlook) -> Document:
    holder, config = seen.lease.holder, seen.lease.config
    leader = holder and {
        "host": holder.host,
        "pid": holder.pid,
        "term": seen.lease.term,
        "beat_age_s": max(0.0, seen.at - seen.lease.beat_at),
    }
    names = {part: config.get(part, {}).get("name") for part in ("cluster", "ordering", "packing", "preemption")}
    tenants = [_tenant(seen, use) for use in seen.snapshot.tenants.values()]
    sharing = {"pairs": list(seen.sharing.pairs), "bars": [bar_document(bar) for bar in seen.sharing.bars]}
    return {"served": seen.served, "leader": leader, **names, "tenants": tenants, "sharing": sharing}


def _tenant(seen: Outlook, use: TenantUse) -> Document:
    tenant = use.tenant
    return {
        "name": tenant.name,
        "weight": tenant.weight,
        "quota": tenant.quota,
        "borrowing_limit": tenant.borrowing_limit,
        "max_priority": tenant.max_priority,
        "held_devices": use.held.devices,
        "used_device_seconds": use.used.devices,
        "waiting": sum(request.tenant == tenant.name for request in seen.service_order),
    }


def _devices(seen: Outlook) -> list[Document]:
    on_device: dict[str, list[Document]] = {free.device.device_id: [] for free in seen.snapshot.devices}
    for bundle in seen.state.bundles.values():
        for device_id in bundle.launch.placement.device_ids:
            if device_id in on_device:
                on_device[device_id].append(_resident(seen, bundle))
    return [
        {
            "id": free.device.device_id,
            "node": free.device.node_id,
            "kind": free.device.kind.value,
            "model": free.device.model,
            "memory_bytes": free.device.memory_bytes,
            "free_share": free.free_share,
            "free_memory_bytes": free.free_memory_bytes,
            "residents": on_device[free.device.device_id],
        }
        for free in seen.snapshot.devices
    ]


def _resident(seen: Outlook, bundle: Bundle) -> Document:
    launch, record = bundle.launch, seen.state.stages[bundle.launch.stage.key]
    return {
        "bundle_id": launch.bundle_id,
        "study": launch.study_id,
        "trials": list(record.waiters),
        "numbers": [seen.state.trials[trial_id].number for trial_id in record.waiters],
        "stage": launch.stage.name,
        "share": launch.placement.share,
        "progress": bundle.progress,
        "since": bundle.allocation.opened_at,
        "expected_end_at": expected_end_at(bundle, record, seen.state.durations) if seen.served else None,
    }


def _heading(study: Study, counts: Mapping[str, int]) -> Document:
    return {
        "id": study.study_id,
        "name": study.name,
        "tenant": study.tenant,
        "priority": study.priority,
        "submitted_at": study.submitted_at,
        "ended_at": study.ended_at,
        "device_kind": device_kind(study.device_kind),
        "trials_by_state": dict(counts),
    }


def _study(seen: Outlook, study: Study) -> Document:
    trials = seen.state.study_trials(study.study_id)
    own, beside = own_and_beside(study.study_id, seen.state.allocations_about(study.study_id))
    numbers = throughput(trials, own, seen.at, beside)
    best = [{"algorithm": b.algorithm, "accuracy": b.accuracy, "trial_number": b.trial_number} for b in best_of(trials)]
    return {
        **_heading(study, _counts(trials)),
        "eta_at": end_of(trials, seen.expected),
        "experiments_per_gpu_hour": numbers["experiments_per_gpu_hour"],
        "best": best,
        "search": search_entry(study, trials),
    }


def _trial(seen: Outlook, trial: Trial) -> Document:
    record, expected = seen.stage_of(trial), seen.expected.get(trial.trial_id)
    return {
        "id": trial.trial_id,
        "number": trial.number,
        "study": trial.study_id,
        "state": trial.state.value,
        "algorithm": trial.variant.algorithm,
        "overrides": list(trial.variant.overrides),
        "stage": record.stage.name if record else None,
        "progress": trial.progress if record else 1.0,
        "position": seen.position_of(trial),
        "why": seen.why(trial),
        "expected_start_at": expected.start_at if expected else None,
        "expected_end_at": expected.end_at if expected else None,
        "gpu_seconds": seen.gpu_seconds(trial),
        "preemptions": trial.preemptions,
        "error": trial.error,
    }


def _command(command: Command, at: float) -> Document:
    return {
        "id": command.command_id,
        "kind": command.kind.value,
        "target": command.target,
        "author": command.author,
        "at": command.at,
        "age_s": max(0.0, at - command.at),
    }


def _counts(trials: Iterable[Trial]) -> dict[str, int]:
    states = [trial.state for trial in trials]
    return {state.value: states.count(state) for state in TrialState}


def _study_state(counts: Mapping[str, int]) -> str:
    """What the study as a whole does: the first of these that a trial of it does, or over."""
    live: Sequence[TrialState] = (TrialState.RUNNING, TrialState.QUEUED, TrialState.PAUSED)
    return next((state.value for state in live if counts[state.value]), "over")
