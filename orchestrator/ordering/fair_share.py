"""Dominant-resource fairness (Ghodsi et al., NSDI 2011) over device, CPU and memory, with a memory that fades.

A tenant's *dominant share* is the largest, over the resources, of what it holds plus what it used, as a fraction of
what there is, divided by the tenant's weight. What it used are resource-seconds that halve in worth every half-life;
divided by half-life / ln 2, what they would add up to if one unit had been held forever, they are units again. So a
tenant that always held one device counts as holding two while it does, and as one right after it lets go.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter

from orchestrator.schema import Capacity, Request, Tenant, TenantUse
from orchestrator.snapshot import Snapshot


def fair_share(snapshot: Snapshot, half_life_s: float) -> Sequence[Request]:
    """Progressive filling: again and again the tenant with the least dominant share is served, and what it is served
    counts as held from then on. Inside a tenant: higher priority first, then by arrival.

    half_life_s: after that time [s] use counts half. Ties between tenants go to the one whose first request arrived
    first, then to the queue's own order; ties inside a tenant keep the queue's own order.
    """
    queues: dict[str, list[Request]] = defaultdict(list)
    for request in sorted(snapshot.queue, key=lambda request: request.queued_at):
        queues[request.tenant].append(request)
    served: list[tuple[float, int, Request]] = []
    for rank, (name, queue) in enumerate(queues.items()):
        queue.sort(key=lambda request: -request.priority)
        use = snapshot.tenants.get(name) or TenantUse(tenant=Tenant(name=name), held=Capacity(), used=Capacity())
        shares = _shares_before(queue, use, snapshot.capacity, half_life_s)
        served += [(share, rank, request) for share, request in zip(shares, queue, strict=True)]
    # A tenant's share never falls while it is served, so merging the tenants' queues by it is one stable sort.
    served.sort(key=itemgetter(0, 1))
    return [request for _, _, request in served]


def _shares_before(queue: Sequence[Request], use: TenantUse, capacity: Capacity, half_life_s: float) -> list[float]:
    """The tenant's dominant share at the moment that each of its requests is next. A resource of which there is
    nothing counts for nothing."""
    worth_s = half_life_s / math.log(2)
    per_device, per_cpu, per_byte = (
        1.0 / (total * use.tenant.weight) if total > 0 else 0.0
        for total in (capacity.devices, capacity.cpus, capacity.host_memory_bytes)
    )
    devices = (use.held.devices + use.used.devices / worth_s) * per_device
    cpus = (use.held.cpus + use.used.cpus / worth_s) * per_cpu
    memory = (use.held.host_memory_bytes + use.used.host_memory_bytes / worth_s) * per_byte
    shares = []
    for request in queue:
        shares.append(max(devices, cpus, memory))
        demand = request.demand
        devices += demand.devices * demand.share * per_device
        cpus += demand.cpus * per_cpu
        memory += demand.host_memory_bytes * per_byte
    return shares
