"""Make room for what is more important or was promised, where the least work is lost.

A *claimant* is a request that was admitted and found no room. It may displace

- a resident whose tenant *borrows* (holds more than its quota), if the claimant fits its own tenant's quota: *reclaim*;
- a resident of lower priority that the ordering would serve after it: of its own tenant, of one that borrows, or, if
  the claimant fits its quota, of one without a quota. What a tenant holds within its quota is taken by nobody else.

Never asked to leave: a resident that had to make room `max_preemptions` times, one younger than `min_hold_s`, one that
leaves anyway, part of a gang; and nobody, if not all of a claimant's room can be made. The victims' requests are put
back into the queue and the ordering and the quotas are asked again: unless the claimants would then be served before
everything else, nobody leaves. So room that was made is not taken back, and the cluster can't thrash.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from orchestrator.ordering import OrderingPolicy
from orchestrator.schema import FreeDevice, Request, Resident, Tenant
from orchestrator.sharing.changes import after_leaving
from orchestrator.sharing.preemption.policy import Preemption
from orchestrator.sharing.preemption.victims import (
    Candidate,
    NodeRoom,
    Victims,
    cheapest_first,
    kinds_by_device,
    least_lost_victims,
    nodes_of,
)
from orchestrator.sharing.quota import TOLERANCE, admit, devices_of, fits_quota, tenant_use
from orchestrator.snapshot import Snapshot

# So many claimants are looked at in one cycle, to keep it short; the next cycle goes on behind them.
CLAIMANTS_PER_CYCLE = 32
# How often a choice is made that may turn out to give the room to somebody else: each is checked by ordering the queue.
_ROUNDS = 3


def least_lost(
    snapshot: Snapshot,
    unplaced: Sequence[Request],
    ordering: OrderingPolicy,
    *,
    max_preemptions: int,
    min_hold_s: float,
) -> Sequence[Preemption]:
    """The preemptions that make room for the first of `unplaced`, in their order, until one can't be helped: packing
    lets nobody overtake it. Where what leaves already makes the room, nobody else is asked. Ties: see `victims`."""
    claimants = unplaced[:CLAIMANTS_PER_CYCLE]
    if not _may_displace(snapshot, claimants):
        return ()
    candidates = _candidates(snapshot, max_preemptions, min_hold_s)
    claims = _claims(snapshot, claimants)
    if not candidates or not claims:
        return ()
    positions = _positions(snapshot, claims, candidates, ordering)
    for _ in range(_ROUNDS):
        plan = _plan(_Room(snapshot), claims, candidates, positions)
        if not plan:
            break
        served = _served_first(snapshot, claims, [v for victims in plan.values() for v in victims], ordering)
        if plan.keys() <= served:
            requests = {claim.request.stage_key: claim for claim in claims}
            return [_preemption(requests[key], victims) for key, victims in plan.items()]
        first_key, first_victims = next(iter(plan.items()))
        up_to_first = 1 + next(n for n, claim in enumerate(claims) if claim.request.stage_key == first_key)
        if first_key in served:
            # With fewer victims fewer come back to the queue. Half, since another plan may have other victims.
            claims = claims[: max(up_to_first, len(served) // 2)]
        else:
            # Others for the first claimant that needs any, and for it alone.
            claims = claims[:up_to_first]
            candidates = [candidate for candidate in candidates if candidate not in first_victims]
    return ()


def _may_displace(snapshot: Snapshot, claimants: Sequence[Request]) -> bool:
    """Whether there is anything to look for: without quotas nothing is reclaimed, and nobody makes room for what is no
    more important."""
    if snapshot.has_quotas:
        return True
    lowest = snapshot.lowest_priority
    return lowest is not None and any(request.priority > lowest for request in claimants)


@dataclass(frozen=True, slots=True)
class _Claim:
    """A claimant, whether it fits its tenant's quota, and whether that quota exists, so that it can be reclaimed."""

    request: Request
    tenant: Tenant
    fits: bool

    @property
    def reclaims(self) -> bool:
        return self.fits and self.tenant.quota is not None


def _claims(snapshot: Snapshot, claimants: Sequence[Request]) -> list[_Claim]:
    counted: dict[str, float] = {}
    claims = []
    for request in claimants:
        use = tenant_use(snapshot.tenants, request.tenant)
        counted[request.tenant] = counted.get(request.tenant, use.held.devices) + devices_of(request)
        claims.append(_Claim(request, use.tenant, fits_quota(use.tenant, counted[request.tenant])))
    return claims


def _candidates(snapshot: Snapshot, max_preemptions: int, min_hold_s: float) -> list[Candidate]:
    """The residents that may have to leave for somebody, cheapest first."""
    node_of = {free.device.device_id: free.device.node_id for free in snapshot.devices}
    candidates = [
        Candidate(
            resident=resident,
            node_id=nodes_of(resident.placement, node_of)[0],
            work_lost=len(resident.placement.device_ids) * resident.placement.share * resident.unsaved_s,
            held_s=snapshot.at - resident.opened_at,
        )
        for resident in snapshot.residents
        if not resident.stopping
        and resident.request.preemptions < max_preemptions
        and snapshot.at - resident.opened_at >= min_hold_s
    ]
    return cheapest_first(candidates)


def _positions(
    snapshot: Snapshot, claims: Sequence[_Claim], candidates: Sequence[Candidate], ordering: OrderingPolicy
) -> Mapping[str, int]:
    """By stage key, in which order the ordering would serve claimants and candidates if they were all that waits."""
    queue = [*(candidate.resident.request for candidate in candidates), *(claim.request for claim in claims)]
    by_arrival = tuple(sorted(queue, key=lambda request: request.queued_at))
    return {r.stage_key: position for position, r in enumerate(ordering(snapshot.but(queue=by_arrival)))}


class _Room:
    """What is free or about to be, and what tenants will hold once all who leave have left; changed as claimants are
    helped, one after the other."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._tenants = snapshot.tenants
        devices: dict[str, list[FreeDevice]] = defaultdict(list)
        self._node_of: dict[str, str] = {}
        for free in snapshot.devices:
            devices[free.device.node_id].append(free)
            self._node_of[free.device.device_id] = free.device.node_id
        room, kinds = snapshot.room, kinds_by_device(snapshot.residents)
        self.nodes = {
            node.node_id: NodeRoom(
                devices[node.node_id],
                cpus=room.milli_cpus.item(row) / 1000,
                host_memory_bytes=room.host_memory_bytes.item(row),
                kinds=kinds,
                barred=room.conflicts,
            )
            for row, node in enumerate(room.nodes)
        }
        self._left: dict[str, list[float]] = defaultdict(list)
        for resident in snapshot.residents:
            if resident.stopping:
                self._leave(resident)

    def tenant(self, name: str) -> Tenant:
        """The tenant of that name, declared or not."""
        return tenant_use(self._tenants, name).tenant

    def borrows(self, name: str) -> bool:
        """Whether the tenant will still hold more than its quota."""
        return not fits_quota(self.tenant(name), self._held(name))

    def comes_back_borrowing(self, victims: Victims, claimant: str) -> bool:
        """Whether each victim, asking again, would go beyond its tenant's quota again; else it could claim its room
        back. Victims of the claimant's own tenant, and of one without a quota, have nothing to claim."""
        leaving: dict[str, list[float]] = defaultdict(list)
        for victim in victims:
            leaving[victim.resident.request.tenant].append(victim.devices)
        return all(
            name == claimant
            or (quota := self.tenant(name).quota) is None
            or self._held(name) - sum(sizes) + min([*sizes, *self._left[name]]) > quota + TOLERANCE
            for name, sizes in leaving.items()
        )

    def node_with_room(self, request: Request) -> NodeRoom | None:
        """The first node that the request fits on."""
        return next((node for node in self.nodes.values() if node.makes_room(request.demand)), None)

    def leave(self, victim: Candidate) -> None:
        """Count a victim as leaving."""
        self._leave(victim.resident)

    def _leave(self, resident: Resident) -> None:
        for node_id in nodes_of(resident.placement, self._node_of):
            self.nodes[node_id].give_back(resident)
        self._left[resident.request.tenant].append(len(resident.placement.device_ids) * resident.placement.share)

    def _held(self, name: str) -> float:
        return tenant_use(self._tenants, name).held.devices - sum(self._left[name])


def _plan(
    room: _Room, claims: Sequence[_Claim], candidates: Sequence[Candidate], positions: Mapping[str, int]
) -> dict[str, Victims]:
    """Victims by the claimant's stage key, for as many of the first claimants as can be helped."""
    plan: dict[str, Victims] = {}
    staying = list(candidates)
    for claim in claims:
        node = room.node_with_room(claim.request)
        if node is None:
            victims = _victims(room, claim, staying, positions)
            if victims is None:
                break
            plan[claim.request.stage_key] = victims
            staying = [candidate for candidate in staying if candidate not in victims]
            for victim in victims:
                room.leave(victim)
            node = room.nodes[victims[0].node_id]
        node.promise(claim.request.demand)
    return plan


def _victims(room: _Room, claim: _Claim, staying: Sequence[Candidate], positions: Mapping[str, int]) -> Victims | None:
    own = claim.request.tenant
    tenants = {candidate.resident.request.tenant for candidate in staying}
    borrowers = {name for name in tenants if room.borrows(name)}
    without_claim = {name for name in tenants if claim.fits and room.tenant(name).quota is None}
    open_to_reclaim = borrowers - {own} if claim.reclaims else set()
    open_to_priority = borrowers | without_claim | {own}
    position = positions[claim.request.stage_key]

    def may_leave(request: Request) -> bool:
        if request.tenant in open_to_reclaim:
            return True
        less_important = request.priority < claim.request.priority and positions[request.stage_key] > position
        return less_important and request.tenant in open_to_priority

    return least_lost_victims(
        room.nodes,
        [candidate for candidate in staying if may_leave(candidate.resident.request)],
        claim.request.demand,
        allowed=lambda victims: room.comes_back_borrowing(victims, own),
    )


def _served_first(
    snapshot: Snapshot, claims: Sequence[_Claim], victims: Sequence[Candidate], ordering: OrderingPolicy
) -> set[str]:
    """The claimants, by stage key, that would still be served first, and in their order, with the victims back in the
    queue, and whoever leaves already too: earlier victims do come back."""
    already_leaving = [resident for resident in snapshot.residents if resident.stopping]
    then = after_leaving(snapshot, [*already_leaving, *(victim.resident for victim in victims)])
    admitted, _ = admit(ordering(then), then)
    in_order = zip((claim.request.stage_key for claim in claims), (r.stage_key for r in admitted), strict=False)
    return {key for key, _ in takewhile(lambda pair: pair[0] == pair[1], in_order)}


def _preemption(claim: _Claim, victims: Victims) -> Preemption:
    request = claim.request
    lost = sum(victim.work_lost for victim in victims)
    if claim.reclaims and any(v.resident.request.priority >= request.priority for v in victims):
        why = f"tenant {claim.tenant.name} claims its quota of {claim.tenant.quota:g} device(s), which others borrow"
    else:
        why = f"priority {request.priority} goes before {max(v.resident.request.priority for v in victims)}"
    return Preemption(
        bundle_ids=tuple(victim.resident.bundle_id for victim in victims),
        for_stage_key=request.stage_key,
        reason=f"makes room for a run of study {request.study_id}: {why}; {lost:g} device-seconds of work are lost",
    )
