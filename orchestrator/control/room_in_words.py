"""What is free, what packing would do with it, and whether somebody would be asked to make room, in words."""

from collections import Counter
from collections.abc import Iterator, Sequence

from orchestrator.control.outlook import Outlook
from orchestrator.report.times import span, when
from orchestrator.schema import Request, Resident, TenantUse
from orchestrator.sharing.changes import after_placements
from orchestrator.sharing.quota import fits_quota, tenant_use
from orchestrator.state.snapshots import never_fits

DEVICES_SHOWN = 8


def devices_now(seen: Outlook, request: Request) -> Iterator[str]:
    """What the request demands, what each device has free, and until when who sits there."""
    demand = request.demand
    yield (
        f"It demands {demand.devices} device(s) with share {demand.share:g} and "
        f"{demand.memory_bytes / 2**30:.2f} GiB each."
    )
    if not seen.snapshot.devices:
        yield "No device has joined yet."
        return
    if why := never_fits(seen.state, seen.state.trials[request.trial_ids[0]]):
        yield f"It can't start here: it needs {why}."
    yield "Devices now:"
    for free in seen.snapshot.devices[:DEVICES_SHOWN]:
        sitting = [r for r in seen.snapshot.residents if free.device.device_id in r.placement.device_ids]
        who = "; ".join(_resident(seen, resident, request.tenant) for resident in sitting) or "nobody sits there"
        who += _barred(seen, request, sitting)
        gib = free.free_memory_bytes / 2**30
        yield f"  {free.device.device_id}: share {max(0.0, free.free_share):.2g} and {gib:.2f} GiB free; {who}"
    if (hidden := len(seen.snapshot.devices) - DEVICES_SHOWN) > 0:
        yield f"  and {hidden} more devices"


def _barred(seen: Outlook, request: Request, sitting: Sequence[Resident]) -> str:
    """Why the request may not sit beside these, if that is so."""
    kind = request.demand.kind
    for other in (resident.request.demand.kind for resident in sitting):
        bar = seen.sharing.bar_between(kind, other)
        if bar is not None:
            return f"; {kind} may not sit beside {other} until {when(bar.until, seen.at)}: {bar.reason}"
    return ""


def packing_answer(seen: Outlook, request: Request) -> str:
    """What the packing policy would do with the queue now."""
    name = seen.lease.config.get("packing", {}).get("name", "best_fit")
    placements = {p.stage_key: p for p in seen.policies.packing(seen.snapshot, seen.admitted)}
    mine = placements.get(request.stage_key)
    if mine is not None:
        return f"packing={name} would place it now on {', '.join(mine.device_ids)}: the next cycle does."
    first = next(r for r in seen.admitted if r.stage_key not in placements)
    if first is request:
        return f"packing={name} finds no room for it; it is the first that has none, and nobody overtakes it."
    which = f"{_whose(first, request.tenant)} #{seen.state.trials[first.trial_ids[0]].number}"
    return (
        f"packing={name} finds no room before it: {which} is the first that has none, and nobody overtakes the first, "
        "or a gang would wait forever."
    )


def preemption_answer(seen: Outlook, request: Request) -> str:
    """Whether somebody would be asked to make room for it, and if not, why not."""
    config = seen.lease.config.get("preemption", {})
    name = config.get("name", "never")
    if name == "never":
        return "Nobody is asked to make room: preemption=never."
    placements = seen.policies.packing(seen.snapshot, seen.admitted)
    placed = {placement.stage_key for placement in placements}
    if request.stage_key in placed:
        return "Nobody needs to make room for it."
    after = after_placements(seen.snapshot, placements)
    unplaced = [r for r in seen.admitted if r.stage_key not in placed]
    asked = seen.policies.preemption(after, unplaced, seen.policies.ordering)
    for preemption in asked:
        if preemption.for_stage_key == request.stage_key:
            return f"preemption={name} would ask {len(preemption.bundle_ids)} bundle(s) to leave: {preemption.reason}."
    stays = Counter(_stays_because(seen, resident, request) for resident in seen.snapshot.residents)
    reasons = "; ".join(f"{count} {reason}" for reason, count in stays.items()) or "nobody sits anywhere"
    return f"preemption={name} asks nobody to leave for it. Of the bundles that run, {reasons}."


def _stays_because(seen: Outlook, resident: Resident, request: Request) -> str:
    config = seen.lease.config.get("preemption", {})
    held_s = seen.at - resident.opened_at
    mine, theirs = (tenant_use(seen.snapshot.tenants, name) for name in (request.tenant, resident.request.tenant))
    if resident.stopping:
        return "leaves already"
    if resident.request.preemptions >= int(config.get("max_preemptions", 0)):
        return "had to make room as often as a trial may"
    if held_s < float(config.get("min_hold_s", 0.0)):
        return f"began less than {span(float(config['min_hold_s']))} ago"
    if not _borrows(theirs) and resident.request.priority >= request.priority:
        return "has no lower priority, and its tenant doesn't borrow"
    if _borrows(theirs) and resident.request.priority >= request.priority and not _within_quota(mine, request):
        return "borrows, but this one would too"
    return "would leave too little room, or be served before it again"


def _borrows(use: TenantUse) -> bool:
    return not fits_quota(use.tenant, use.held.devices)


def _within_quota(use: TenantUse, request: Request) -> bool:
    return fits_quota(use.tenant, use.held.devices + request.demand.devices * request.demand.share)


def _resident(seen: Outlook, resident: Resident, tenant: str) -> str:
    numbers = ", ".join(f"#{seen.state.trials[t].number}" for t in resident.request.trial_ids[:4])
    until = resident.expected_end_at
    left = "nobody can say until when" if until is None else f"until about {when(max(until, seen.at), seen.at)}"
    return f"{_whose(resident.request, tenant)} {numbers} {left}"


def _whose(request: Request, tenant: str) -> str:
    """The study, for its own tenant; others may not be allowed to know it."""
    return request.study_id if request.tenant == tenant else f"a study of tenant {request.tenant}"
