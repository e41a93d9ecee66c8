"""Whom to ask: the set of candidates on one node that makes room for a demand and loses the least work.

Sets are compared by the work lost [device-seconds], then by how many they are, then by how long they have run in all
(the youngest first), then by the nodes' order and the bundles' ids.
"""

import heapq
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.schema import Demand, FreeDevice, Placement, Resident

# One unit of `Room`: a third of a device is a bit less than one.
SHARE_TOLERANCE = 1e-6
# One thousandth of a core is one unit of it.
CPU_TOLERANCE = 1e-3
# So many sets are looked at, cheapest first, before the greedy choice takes over: a few milliseconds.
SETS_LOOKED_AT = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A resident that may be asked to leave. `work_lost`: what it has done since its last checkpoint
    [device-seconds]; `held_s`: for how long it has run [s]."""

    resident: Resident
    node_id: str
    work_lost: float
    held_s: float

    @property
    def devices(self) -> float:
        """What it holds [devices x share]."""
        return len(self.resident.placement.device_ids) * self.resident.placement.share


Victims = tuple[Candidate, ...]
Cost = tuple[float, int, float]


@dataclass(slots=True)
class _Free:
    """What is free: of each device, and of the node."""

    share: dict[str, float]
    memory: dict[str, int]
    cpus: float
    host_memory_bytes: float

    def copy(self) -> "_Free":
        return _Free(dict(self.share), dict(self.memory), self.cpus, self.host_memory_bytes)

    def give_back(self, placement: Placement) -> None:
        """A gang's devices elsewhere, and its part of what their nodes have, are not this node's."""
        here = [device_id for device_id in placement.device_ids if device_id in self.share]
        for device_id in here:
            self.share[device_id] += placement.share
            self.memory[device_id] += placement.memory_bytes
        part = len(here) / len(placement.device_ids) if placement.device_ids else 1.0
        self.cpus += part * placement.cpus
        self.host_memory_bytes += part * placement.host_memory_bytes


class NodeRoom:
    """What is free on one node, and what of it is promised: its devices, cores and memory.

    `kinds` are the kinds of work that sit on each device, `barred` by kind those that it may not sit beside.
    """

    def __init__(
        self,
        devices: Sequence[FreeDevice],
        *,
        cpus: float = math.inf,
        host_memory_bytes: float = math.inf,
        kinds: Mapping[str, Sequence[str]] | None = None,
        barred: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self._size = {free.device.device_id: free.device.memory_bytes for free in devices}
        self._model = {free.device.device_id: free.device.model for free in devices}
        self._kinds = {free.device.device_id: list((kinds or {}).get(free.device.device_id, ())) for free in devices}
        self._barred = barred or {}
        self._free = _Free(
            {free.device.device_id: free.free_share for free in devices},
            {free.device.device_id: free.free_memory_bytes for free in devices},
            cpus,
            host_memory_bytes,
        )

    def fitting(self, demand: Demand, leaving: Collection[Candidate] = ()) -> list[str]:
        """The devices that fit their part of the demand once these have left."""
        free = self._once_left(leaving)
        return [
            device_id
            for device_id in free.share
            if free.share[device_id] + SHARE_TOLERANCE >= demand.share
            and free.memory[device_id] >= demand.memory_bytes
            and (not demand.models or self._model[device_id] in demand.models)
            and self._suits(demand.kind, device_id, leaving)
        ]

    def node_fits(self, demand: Demand, leaving: Collection[Candidate] = ()) -> bool:
        """Whether the node has the demand's cores and host memory once these have left."""
        free = self._once_left(leaving)
        return free.cpus + CPU_TOLERANCE >= demand.cpus and free.host_memory_bytes >= demand.host_memory_bytes

    def makes_room(self, demand: Demand, leaving: Collection[Candidate] = ()) -> bool:
        """Whether the demand fits once these have left."""
        return self.node_fits(demand, leaving) and len(self.fitting(demand, leaving)) >= demand.devices

    def give_back(self, resident: Resident) -> None:
        """Count what a resident that leaves holds as free."""
        self._free.give_back(resident.placement)
        for device_id in resident.placement.device_ids:
            if resident.request.demand.kind in self._kinds.get(device_id, ()):
                self._kinds[device_id].remove(resident.request.demand.kind)

    def promise(self, demand: Demand) -> None:
        """Set aside the fullest devices that fit; as in packing, a share of a device is that share of its memory."""
        free = self._free
        tightest = sorted(self.fitting(demand), key=lambda d: (free.share[d], free.memory[d]))[: demand.devices]
        in_share = min((min(int(demand.share * self._size[d]), free.memory[d]) for d in tightest), default=0)
        for device_id in tightest:
            free.share[device_id] -= demand.share
            free.memory[device_id] -= max(demand.memory_bytes, in_share)
            self._kinds[device_id].append(demand.kind)
        free.cpus -= demand.cpus
        free.host_memory_bytes -= demand.host_memory_bytes

    def _once_left(self, leaving: Collection[Candidate]) -> _Free:
        if not leaving:
            return self._free
        free = self._free.copy()
        for candidate in leaving:
            free.give_back(candidate.resident.placement)
        return free

    def _suits(self, kind: str, device_id: str, leaving: Collection[Candidate]) -> bool:
        """Whether nobody whose kind bars this one stays on the device."""
        barred = self._barred.get(kind)
        if not barred:
            return True
        staying = list(self._kinds[device_id])
        for candidate in leaving:
            left = candidate.resident.request.demand.kind
            if device_id in candidate.resident.placement.device_ids and left in staying:
                staying.remove(left)
        return not any(other in barred for other in staying)


def kinds_by_device(residents: Sequence[Resident]) -> dict[str, list[str]]:
    """The kinds of work that sit on each device, by its id."""
    kinds: dict[str, list[str]] = {}
    for resident in residents:
        for device_id in resident.placement.device_ids:
            kinds.setdefault(device_id, []).append(resident.request.demand.kind)
    return kinds


def nodes_of(placement: Placement, node_of: Mapping[str, str]) -> list[str]:
    """The nodes that a placement is on, by the nodes of devices, and by its own word where it has none."""
    return list(dict.fromkeys([node_of[d] for d in placement.device_ids] or placement.node_ids))


def cheapest_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """In the order in which single candidates are preferred."""
    return sorted(candidates, key=lambda c: (c.work_lost, c.held_s, c.resident.bundle_id))


def least_lost_victims(
    nodes: Mapping[str, NodeRoom],
    candidates: Sequence[Candidate],
    demand: Demand,
    allowed: Callable[[Victims], bool],
    sets_looked_at: int = SETS_LOOKED_AT,
) -> Victims | None:
    """The cheapest set that makes room for the demand on one node; None if there is none.

    `candidates` are sorted by `cheapest_first`. `allowed` may forbid sets; every part of an allowed set is allowed.
    Exact if the answer is among the first `sets_looked_at` sets in order of cost, which are all sets of a small
    cluster; greedy beyond (see `_greedy`).
    """
    by_node: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_node.setdefault(candidate.node_id, []).append(candidate)
    sets = _sets_by_cost([(nodes[node_id], on_node) for node_id, on_node in by_node.items()], demand)
    for _, (node, victims) in zip(range(sets_looked_at), sets, strict=False):
        if node.makes_room(demand, victims) and allowed(victims):
            return victims
    if next(sets, None) is None:
        return None
    found = (_greedy(nodes[node_id], on_node, demand, allowed) for node_id, on_node in by_node.items())
    return min((victims for victims in found if victims), key=_cost, default=None)


def _sets_by_cost(
    by_node: Sequence[tuple[NodeRoom, list[Candidate]]], demand: Demand
) -> Iterator[tuple[NodeRoom, Victims]]:
    """All non-empty sets of useful candidates that share a node, cheapest first.

    From a set whose last member is the i-th cheapest of its node two follow: with the next one too, and with the next
    one instead. Neither is cheaper, and every set is reached once. Which candidates of a node are useful is asked only
    once its cheapest one's turn has come: most nodes' never does.
    """
    useful: dict[int, list[Candidate]] = {}
    heap: list[tuple[Cost, int, tuple[int, ...]]] = [
        (_cost(on_node[:1]), position, ()) for position, (_, on_node) in enumerate(by_node)
    ]
    heapq.heapify(heap)

    def push(position: int, indexes: tuple[int, ...]) -> None:
        if indexes[-1] < len(useful[position]):
            heapq.heappush(heap, (_cost([useful[position][i] for i in indexes]), position, indexes))

    while heap:
        _, position, indexes = heapq.heappop(heap)
        node, on_node = by_node[position]
        if not indexes:
            useful[position] = _useful(node, on_node, demand)
            push(position, (0,))
            continue
        push(position, (*indexes, indexes[-1] + 1))
        push(position, (*indexes[:-1], indexes[-1] + 1))
        yield node, tuple(useful[position][i] for i in indexes)


def _useful(node: NodeRoom, on_node: Sequence[Candidate], demand: Demand) -> list[Candidate]:
    """Those on devices that would fit the demand if all left, and where the node itself has too little all of them;
    nobody if all together would not make room."""
    if not node.makes_room(demand, on_node):
        return []
    if not node.node_fits(demand):
        return list(on_node)
    fitting = node.fitting(demand, on_node)
    return [candidate for candidate in on_node if not set(fitting).isdisjoint(candidate.resident.placement.device_ids)]


def _greedy(
    node: NodeRoom, on_node: Sequence[Candidate], demand: Demand, allowed: Callable[[Victims], bool]
) -> Victims | None:
    """Take candidates, cheapest first, until there is room; then let stay, dearest first, whoever isn't needed."""
    victims: Victims = ()
    for candidate in _useful(node, on_node, demand):
        if node.makes_room(demand, victims):
            break
        if allowed((*victims, candidate)):
            victims = (*victims, candidate)
    if not node.makes_room(demand, victims):
        return None
    for candidate in reversed(victims):
        others = tuple(victim for victim in victims if victim is not candidate)
        if node.makes_room(demand, others):
            victims = others
    return victims


def _cost(victims: Sequence[Candidate]) -> Cost:
    # fsum rounds once, so that a dearer member never makes a cheaper set.
    return math.fsum(v.work_lost for v in victims), len(victims), math.fsum(v.held_s for v in victims)
