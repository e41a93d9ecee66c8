"""Snapshots with tenants and residents, built from few words."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from orchestrator.schema import Capacity, FreeDevice, Placement, Request, Resident, Snapshot, Tenant, TenantUse
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
    devices = []
    for name, width in zip("abcdefgh", nodes, strict=False):
        for index in range(width):
            made = device(index, name, memory_bytes=NODE_MEMORY)
            on_it = [r.placement for r in residents if made.device_id in r.placement.device_ids]
            devices.append(
                FreeDevice(
                    device=made,
                    free_share=1.0 - sum(p.share for p in on_it),
                    free_memory_bytes=NODE_MEMORY - sum(p.memory_bytes for p in on_it),
                    residents=len(on_it),
                )
            )
    held: dict[str, float] = defaultdict(float)
    for r in residents:
        held[r.request.tenant] += len(r.placement.device_ids) * r.placement.share
    declared = {tenant.name: tenant for tenant in tenants}
    names = dict.fromkeys([*declared, *held])
    return Snapshot(
        at=at,
        devices=tuple(devices),
        residents=tuple(residents),
        queue=tuple(queue),
        capacity=Capacity(devices=float(sum(nodes))),
        tenants={
            name: TenantUse(
                tenant=declared.get(name, Tenant(name=name)), held=Capacity(devices=held[name]), used=Capacity()
            )
            for name in names
        },
    )


def ids(node: str, *indexes: int) -> list[str]:
    return [device(index, node).device_id for index in indexes]
