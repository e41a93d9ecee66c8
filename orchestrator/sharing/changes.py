"""Snapshots as they will be: once placements are made, or once residents have left."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.schema import Allocation, Capacity, Demand, Placement, Resident, Snapshot, TenantUse
from orchestrator.sharing.quota import tenant_use


def held_by(hold: Placement | Allocation, demand: Demand | None) -> Capacity:
    """What a bundle holds of the cluster, by its placement or its line of the ledger; devices count by share. With an
    unknown demand, of a stage that nobody keeps in mind any more, the devices alone count."""
    return Capacity(
        devices=len(hold.device_ids) * hold.share,
        cpus=demand.cpus if demand else 0.0,
        host_memory_bytes=demand.host_memory_bytes if demand else 0.0,
    )


def after_placements(snapshot: Snapshot, placements: Sequence[Placement]) -> Snapshot:
    """The snapshot with the placements made: their devices fuller, their requests out of the queue and held by their
    tenants. They are not among the residents, so nobody can ask them to leave before they have begun."""
    if not placements:
        return snapshot
    placed = {placement.stage_key: placement for placement in placements}
    on_device: dict[str, list[Placement]] = defaultdict(list)
    for placement in placements:
        for device_id in placement.device_ids:
            on_device[device_id].append(placement)
    devices = tuple(
        replace(
            free,
            free_share=free.free_share - sum(p.share for p in new),
            free_memory_bytes=free.free_memory_bytes - sum(p.memory_bytes for p in new),
            residents=free.residents + len(new),
        )
        if (new := on_device.get(free.device.device_id))
        else free
        for free in snapshot.devices
    )
    taken = [(r.tenant, held_by(placed[r.stage_key], r.demand), 1) for r in snapshot.queue if r.stage_key in placed]
    return replace(
        snapshot,
        devices=devices,
        queue=tuple(request for request in snapshot.queue if request.stage_key not in placed),
        tenants=_with_held(snapshot.tenants, taken),
    )


def after_leaving(snapshot: Snapshot, leaving: Sequence[Resident]) -> Snapshot:
    """The snapshot once these residents have left and are back in the queue at their old place, before others that
    arrived at the same instant. Devices stay as they are: who orders and admits doesn't look at them."""
    bundle_ids = {resident.bundle_id for resident in leaving}
    given_back = [(r.request.tenant, held_by(r.placement, r.request.demand), -1) for r in leaving]
    queue = [*(resident.request for resident in leaving), *snapshot.queue]
    return replace(
        snapshot,
        residents=tuple(resident for resident in snapshot.residents if resident.bundle_id not in bundle_ids),
        queue=tuple(sorted(queue, key=lambda request: request.queued_at)),
        tenants=_with_held(snapshot.tenants, given_back),
    )


def _with_held(
    tenants: Mapping[str, TenantUse], changes: Sequence[tuple[str, Capacity, int]]
) -> Mapping[str, TenantUse]:
    changed = dict(tenants)
    for name, amounts, sign in changes:
        use = tenant_use(changed, name)
        held = Capacity(
            devices=use.held.devices + sign * amounts.devices,
            cpus=use.held.cpus + sign * amounts.cpus,
            host_memory_bytes=use.held.host_memory_bytes + sign * amounts.host_memory_bytes,
        )
        changed[name] = replace(use, held=held)
    return changed
