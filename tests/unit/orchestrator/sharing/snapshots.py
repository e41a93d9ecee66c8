"""Snapshots with tenants and residents, built from few words."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from orchestrator.schema import Capacity, Node, Placement, Request, Resident, Tenant, TenantUse
from orchestrator.snapshot import Room, Snapshot
from tests.unit.orchestrator.builders import GIB, device

NODE_MEMORY = 8 * GIB


def resident(
    request: Request,
    device_ids: Sequence[str],
    *,
    opened_at: float = 0.0,
    unsaved_s: float = 0.0,
    stopping: bool = False,
) -> Resident:
    """A bundle that holds what its request asked for."""
    return Resident(
        bundle_id=f"bundle-{request.stage_key}",
        placement=Placement(
            stage_key=request.stage_key,
            device_ids=tuple(device_ids),
            share=request.demand.share,
            memory_bytes=request.demand.memory_bytes,
        ),
        request=request,
        opened_at=opened_at,
        unsaved_s=unsaved_s,
        stopping=stopping,
    )


def snapshot(
    *,
    nodes: Sequence[int] = (4,),
    residents: Sequence[Resident] = (),
    queue: Iterable[Request] = (),
    tenants: Iterable[Tenant] = (),
    at: float = 1000.0,
) -> Snapshot:
    """Node `a` has the first of `nodes` devices, `b` the second; what is free follows from the residents."""
    room = Room(
        [
            Node(node_id=name, devices=tuple(device(i, name, memory_bytes=NODE_MEMORY) for i in range(width)))
            for name, width in zip("abcdefgh", nodes, strict=False)
        ]
    )
    for r in residents:
        room.take(r.placement)
    held: dict[str, float] = defaultdict(float)
    for r in residents:
        held[r.request.tenant] += len(r.placement.device_ids) * r.placement.share
    declared = {tenant.name: tenant for tenant in tenants}
    names = dict.fromkeys([*declared, *held])
    return Snapshot(
        at=at,
        room=room,
        residents=tuple(residents),
        queue=tuple(queue),
        tenants={
            name: TenantUse(
                tenant=declared.get(name, Tenant(name=name)), held=Capacity(devices=held[name]), used=Capacity()
            )
            for name in names
        },
    )


def ids(node: str, *indexes: int) -> list[str]:
    return [device(index, node).device_id for index in indexes]
