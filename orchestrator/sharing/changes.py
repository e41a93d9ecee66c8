"""Snapshots as they will be: once placements are made, or once residents have left."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.schema import Allocation, Capacity, Demand, Placement, Resident, TenantUse
from orchestrator.sharing.quota import tenant_use
from orchestrator.snapshot import Snapshot


def held_by(hold: Placement | Allocation, demand: Demand | None) -> Capacity:
    """What a bundle holds of the cluster, by its placement or its line of the ledger; devices count by share. A line
    doesn't say what it holds of the host: that is its demand's, or its seat's part of it. With an unknown demand, of a
    stage that nobody keeps in mind any more, the devices alone count."""
    devices = len(hold.device_ids) * hold.share
    if isinstance(hold, Placement) and hold.stack_id:
        return Capacity(devices=devices, cpus=hold.cpus, host_memory_bytes=hold.host_memory_bytes)
    part = hold.share / demand.share if demand and hold.stack_id else 1.0
    return Capacity(
        devices=devices,
        cpus=demand.cpus * part if demand else 0.0,
        host_memory_bytes=demand.host_memory_bytes * part if demand else 0.0,
    )


def after_placements(snapshot: Snapshot, placements: Sequence[Placement]) -> Snapshot:
    """The snapshot with the placements made: their devices fuller, their requests out of the queue and held by their
    tenants. They are not among the residents, so nobody can ask them to leave before they have begun."""
    if not placements:
        return snapshot
    placed = {placement.stage_key: placement for placement in placements}
    room = snapshot.room.copy()
    for placement in placements:
        room.take(placement)
    taken = [(r.tenant, held_by(placed[r.stage_key], r.demand), 1) for r in snapshot.queue if r.stage_key in placed]
    return snapshot.but(
        room=room,
        queue=tuple(request for request in snapshot.queue if request.stage_key not in placed),
        tenants=_with_held(snapshot.tenants, taken),
    )


def after_leaving(snapshot: Snapshot, leaving: Sequence[Resident]) -> Snapshot:
    """The snapshot once these residents have left and are back in the queue at their old place, before others that
    arrived at the same instant. Devices stay as they are: who orders and admits doesn't look at them."""
    bundle_ids = {resident.bundle_id for resident in leaving}
    given_back = [(r.request.tenant, held_by(r.placement, r.request.demand), -1) for r in leaving]
    queue = [*(resident.request for resident in leaving), *snapshot.queue]
    return snapshot.but(
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
