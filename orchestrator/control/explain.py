"""`orchestrator explain TRIAL`: why a trial is where it is, in words; everything said can be looked up in `status`."""

from collections.abc import Iterator
from dataclasses import replace

from orchestrator.control.demand_in_words import demand_in_words, reckoned
from orchestrator.control.outlook import NOBODY_SERVES, Outlook, is_shared_run, outlook
from orchestrator.control.room_in_words import devices_now, packing_answer, preemption_answer
from orchestrator.ports import Store
from orchestrator.report.times import clock, span, when
from orchestrator.schema import JournalEntry, JournalKind, Request, Stage, Trial, TrialState
from orchestrator.service.sharing_file import NOTHING_MEASURED, Sharing
from orchestrator.sharing.quota import devices_of
from orchestrator.state.records import StageRecord

HISTORY_LINES = 20
_PAGE = 1000


def explanation(store: Store, trial_id: str, at: float, sharing: Sharing = NOTHING_MEASURED) -> list[str]:
    """The whole reasoning, a thought a line, at `at` [s since the epoch]. Raises KeyError for an unknown trial."""
    seen = outlook(store, at, [store.trial(trial_id).study_id], sharing)
    trial = seen.state.trials[trial_id]
    return [*_what_it_is(seen, trial), *_history(store, trial, at), *_now(seen, trial), *_expected(seen, trial)]


def _what_it_is(seen: Outlook, trial: Trial) -> Iterator[str]:
    study = seen.state.studies[trial.study_id]
    overrides = " ".join(trial.variant.overrides) or "as composed"
    yield (
        f"{trial.trial_id} is trial {trial.number} of study {study.name} (tenant {study.tenant}, priority "
        f"{study.priority}): {trial.variant.algorithm}, {overrides}."
    )
    stages = ", ".join(f"{stage.name} ({_steps(stage)})" for stage in trial.variant.stages)
    cloned = f" It is a clone of {trial.cloned_from}." if trial.cloned_from else ""
    yield f"Its stages: {stages}.{cloned}"
    record = seen.stage_of(trial)
    if record is not None and study.device_kind is not None:
        yield from demand_in_words(seen, trial, record)


def _steps(stage: Stage) -> str:
    warm = f", from a checkpoint of step {stage.warm_step} on" if stage.warm_from else ""
    return f"{stage.budget_steps} steps{warm}"


def _history(store: Store, trial: Trial, at: float) -> Iterator[str]:
    entries = list(_journal(store, trial.trial_id))
    if not entries:
        yield f"Submitted {when(trial.submitted_at, at)}; no service has taken it in yet."
        return
    yield "History:"
    if len(entries) > HISTORY_LINES:
        yield f"  ({len(entries) - HISTORY_LINES} earlier lines are left out)"
    for entry in entries[-HISTORY_LINES:]:
        was, state, why = (str(entry.payload.get(name, "")) for name in ("was", "state", "why"))
        change = state if was in ("", state) else f"{was} -> {state}"
        yield f"  {clock(entry.at, at)}  {change}{f': {why}' if why and why != state else ''}"


def _journal(store: Store, trial_id: str) -> Iterator[JournalEntry]:
    """What happened to the trial, without the points of its series."""
    after = 0
    while page := store.journal(after, _PAGE, trial_id=trial_id):
        yield from (entry for entry in page if entry.kind is JournalKind.TRIAL)
        after = page[-1].sequence


def _now(seen: Outlook, trial: Trial) -> Iterator[str]:
    record = seen.stage_of(trial)
    if trial.state is TrialState.QUEUED and record is not None:
        yield from _waiting(seen, trial, record)
    elif trial.state is TrialState.RUNNING and record is not None:
        yield from _running(seen, trial, record)
    elif trial.state is TrialState.PAUSED:
        reason = f" ({trial.error})" if trial.error else ""
        yield f"It is paused{reason} and holds no device; `orchestrator resume {trial.trial_id}` lets it go on."
    else:
        yield from _over(seen, trial)


def _over(seen: Outlook, trial: Trial) -> Iterator[str]:
    ended = f" {when(trial.ended_at, seen.at)}" if trial.ended_at is not None else ""
    yield (
        f"It is over: {trial.state}{ended}, with results for {100 * trial.budget_fraction:.0f} % of its budget, for "
        f"{seen.gpu_seconds(trial):.1f} device-seconds; it had to make room {trial.preemptions} times."
    )
    if "accuracy" in trial.metrics:
        yield f"Its accuracy on held-out test problems is {100 * trial.metrics['accuracy']:.1f} %."
    if trial.error:
        yield f"Why: {trial.error.strip().splitlines()[-1]}"
    if trial.state in (TrialState.FAILED, TrialState.CANCELLED):
        yield f"`orchestrator retry {trial.trial_id}` gives it another chance."


def _running(seen: Outlook, trial: Trial, record: StageRecord) -> Iterator[str]:
    bundle = seen.state.bundles.get(record.bundle_id)
    if bundle is None:
        yield "It runs; its devices are not known yet."
        return
    placement = bundle.launch.placement
    place = f"{', '.join(placement.device_ids)} with share {placement.share:g}"
    yield (
        f"It runs stage {record.stage.name} on {place} since {when(bundle.allocation.opened_at, seen.at)}: "
        f"{100 * bundle.progress:.0f} % done, attempt {trial.attempt}, {trial.preemptions} times preempted."
    )
    if len(record.waiters) > 1:
        yield f"{len(record.waiters) - 1} other trials wait for the same stage and share the cost of this run."


def _waiting(seen: Outlook, trial: Trial, record: StageRecord) -> Iterator[str]:
    position = trial.stage_index + 1
    stage = f"stage {record.stage.name} ({position} of {len(trial.variant.stages)})"
    if not seen.served:
        yield f"It waits for {stage}, and for {NOBODY_SERVES}."
        return
    if is_shared_run(record, trial):
        leader = seen.state.trials[record.waiters[0]]
        yield f"It waits for {stage}, which trial {leader.number} runs for all {len(record.waiters)} that share it."
        yield from _running(seen, leader, record)
        return
    request = next((r for r in seen.service_order if r.stage_key == record.stage.key), None)
    if request is None or seen.state.studies[trial.study_id].device_kind is None:
        yield f"It waits for {stage}: {seen.why(trial)}."
        return
    yield f"It waits for devices for {stage}; {_done_before(record)}."
    yield from _order(seen, request)
    yield from _tenant(seen, request)
    if request.stage_key not in seen.held_back:
        yield from devices_now(seen, request)
        yield packing_answer(seen, request)
        yield preemption_answer(seen, request)


def _done_before(record: StageRecord) -> str:
    return f"{100 * record.progress:.0f} % of it is done already" if record.progress else "none of it has been done"


def _order(seen: Outlook, request: Request) -> Iterator[str]:
    config = seen.lease.config.get("ordering", {})
    place = f"place {seen.positions[request.stage_key]} of {len(seen.service_order)}"
    name = config.get("name", "fifo")
    yield (
        f"Order: {place} under ordering={name}, with priority {request.priority}, waiting since "
        f"{when(request.queued_at, seen.at)}."
    )
    ahead = seen.positions[request.stage_key] - 1
    if ahead:
        by_tenant: dict[str, int] = {}
        for other in seen.service_order[:ahead]:
            by_tenant[other.tenant] = by_tenant.get(other.tenant, 0) + 1
        yield f"Before it: {', '.join(f'{n} of tenant {tenant}' for tenant, n in sorted(by_tenant.items()))}."
    if "max_wait_s" in config:
        bound_at = request.queued_at + float(config["max_wait_s"])
        yield (
            f"Whatever arrives, from {when(bound_at, seen.at)} on it goes before all that came later "
            f"(ordering.max_wait_s={span(float(config['max_wait_s']))})."
        )


def _tenant(seen: Outlook, request: Request) -> Iterator[str]:
    use = seen.snapshot.tenants[request.tenant]
    tenant = use.tenant
    asks = f"this run asks for {devices_of(request):g}"
    if tenant.quota is None:
        yield f"Tenant {tenant.name} holds {use.held.devices:g} device(s) and has no quota; {asks}."
    else:
        limit = "any number" if tenant.borrowing_limit is None else f"{tenant.borrowing_limit:g}"
        borrows = max(0.0, use.held.devices - tenant.quota)
        yield (
            f"Tenant {tenant.name} holds {use.held.devices:g} device(s) of a quota of {tenant.quota:g} (it borrows "
            f"{borrows:g} and may borrow {limit}); {asks}."
        )
    if request.stage_key in seen.held_back:
        yield f"It is held back: {seen.held_back[request.stage_key]}."


def _expected(seen: Outlook, trial: Trial) -> Iterator[str]:
    record, expected = seen.stage_of(trial), seen.expected.get(trial.trial_id)
    if record is None or trial.state not in (TrialState.QUEUED, TrialState.RUNNING) or not seen.served:
        return
    if expected is None:
        yield f"Expected: {seen.why(replace(trial, state=TrialState.QUEUED)).rpartition('; ')[2]}."
        return
    start = "" if expected.start_at is None else f"to start {when(expected.start_at, seen.at)} and "
    yield f"Expected {start}to end {when(expected.end_at, seen.at)}.{reckoned(seen, trial.variant.stages[-1])}"
