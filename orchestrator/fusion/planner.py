"""Stages of one fusion key into stacks: seats of those that run are filled, and those that wait are joined.

A joined request stands for several requests of one key, at the place of the first of them in the order of service, and
asks for one device (or one share of it) for all: quotas, packing and preemption treat it as the one program that it
will be. Once it has a place, the place is cut into seats, one for each, and each is a bundle of its own.

Seats that members of a running stack have left are filled first, and at once: that costs neither a start nor a device.
But whoever waits in front of those that would fill them, and has waited for longer than `patience_s`, isn't overtaken.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from orchestrator.fusion.stacks import Stack
from orchestrator.fusion.widths import Widths
from orchestrator.schema import Demand, Placement, Request
from orchestrator.snapshot import Mask, Room, Snapshot

_MILLI = 1_000
_SOON = 0.25
"""A device that is expected to be free within this part of what those that wait are expected to take counts as free:
half as many take more than half of the time, but all devices together are done sooner."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The order of service with joined requests in it. `members`: those that a joined one stands for, by its key."""

    requests: Sequence[Request]
    members: dict[str, tuple[Request, ...]] = field(default_factory=dict)

    def seats(self, placements: Iterable[Placement], new_stack_id: Callable[[], str]) -> tuple[Placement, ...]:
        """One placement for each stage: those of joined requests are cut into equal seats of a new stack."""
        out: list[Placement] = []
        for placement in placements:
            members = self.members.get(placement.stage_key)
            out += [placement] if members is None else _cut(placement, members, new_stack_id())
        return tuple(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """max_width: of any stack. refill: whether seats that members have left are filled. patience_s: how long somebody
    may be overtaken by those that fill them. look_ahead: so many of those that wait are looked at."""

    max_width: int = 16
    refill: bool = True
    patience_s: float = 300.0
    look_ahead: int = 512

    def fill(self, snapshot: Snapshot, stacks: Sequence[Stack], waiting: Sequence[Request]) -> tuple[Placement, ...]:
        """Placements into the free seats of stacks that run, of those in `waiting` (by the order of service)."""
        if not stacks or not self.refill:
            return ()
        queues: dict[tuple[str, str], deque[Request]] = {}
        for request in self._not_overtaking(snapshot.at, stacks, waiting):
            queues.setdefault((request.fusion_key, request.tenant), deque()).append(request)
        placements: list[Placement] = []
        with snapshot.room.attempt():
            for stack in stacks:
                queue = queues.get((stack.fusion_key, stack.tenant), deque())
                for _ in range(min(len(queue), self.max_width - len(stack.members))):
                    seat = _seat(snapshot.room, stack, queue[0])
                    if seat is None:
                        break
                    queue.popleft()
                    placements.append(seat)
        return tuple(placements)

    def for_seats(self, stacks: Sequence[Stack], waiting: Sequence[Request]) -> list[Request]:
        """Those that would fill seats, each asking for the smallest one that it might get: what quotas are about."""
        smallest: dict[tuple[str, str], float] = {}
        for stack in stacks:
            key = stack.fusion_key, stack.tenant
            smallest[key] = min(stack.seat.share, smallest.get(key, 1.0))
        return [
            replace(request, demand=replace(request.demand, share=smallest[request.fusion_key, request.tenant]))
            for request in waiting
            if (request.fusion_key, request.tenant) in smallest
        ]

    def _not_overtaking(self, at: float, stacks: Sequence[Stack], waiting: Sequence[Request]) -> Iterable[Request]:
        """Those in front of the first that has waited too long and has no stack to join."""
        joinable = {(stack.fusion_key, stack.tenant) for stack in stacks}
        for request in waiting:
            if (request.fusion_key, request.tenant) in joinable:
                yield request
            elif at - request.queued_at > self.patience_s:
                return

    def join(self, snapshot: Snapshot, widths: Widths, waiting: Sequence[Request]) -> Plan:
        """The order of service `waiting` with as many joined as their widths and the devices that are free suggest."""
        groups: dict[tuple[object, ...], list[Request]] = {}
        for request in waiting:
            if request.fusion_key and request.demand.devices == 1:
                groups.setdefault(_alike(request), []).append(request)
        fusable = sum(map(len, groups.values()))
        chunks: dict[str, tuple[Request, ...]] = {}
        for group in groups.values():
            # Its part of the devices: a stack on each is better than one that is twice as wide on half of them.
            devices = _devices_for(snapshot, group[0])
            lanes = max(1, round(devices * len(group) / fusable / _per_device(group[0].demand)))
            for chunk in _parts(group, lanes, self._width(snapshot.room, widths, group[0])):
                chunks[chunk[0].stage_key] = chunk
        joined = {key: chunk for key, chunk in chunks.items() if len(chunk) > 1}
        absorbed = {request.stage_key for chunk in joined.values() for request in chunk[1:]}
        requests = [
            _joined(joined[r.stage_key], widths) if r.stage_key in joined else r
            for r in waiting
            if r.stage_key not in absorbed
        ]
        return Plan(requests, joined)

    def _width(self, room: Room, widths: Widths, request: Request) -> int:
        """What is best of what finds room in one device."""
        most = int(room.whole_memory_bytes.max(initial=0))
        width = widths.best(request.fusion_key, self.max_width)
        while width > 1 and _memory(widths, request, width) > most:
            width -= 1
        return width


def _alike(request: Request) -> tuple[object, ...]:
    """What members of one joined request have in common: for the device, the quota and the order of service."""
    demand = request.demand
    asked = demand.share, demand.models, demand.kind, demand.max_slowdown
    return request.fusion_key, request.tenant, request.priority, *asked


def _per_device(demand: Demand) -> int:
    """How many programs of this share a device holds."""
    return max(1, int(1.0 / demand.share + 1e-9))


def _devices_for(snapshot: Snapshot, request: Request) -> int:
    """How many devices could take one like this now, or soon: whoever is kept for a busy one runs later, and in a
    narrower stack. All of them where none could now: then the plan is for those who ask when."""
    room = snapshot.room
    fits = room.fitting(request.demand) & room.node_fits(request.demand)[:, None]
    free = int(fits.sum())
    return free + _free_soon(snapshot, request, fits) if free else room.device_count


def _free_soon(snapshot: Snapshot, request: Request, fits: Mask) -> int:
    """How many devices that don't fit now are expected to be left by all who sit there about now."""
    patience_s = _SOON * (request.expected_s or 0.0)
    last: dict[str, float] = {}
    for resident in snapshot.residents if patience_s and not fits[snapshot.room.exists].all() else ():
        end = math.inf if resident.expected_end_at is None else resident.expected_end_at
        for device_id in resident.placement.device_ids:
            last[device_id] = max(end, last.get(device_id, 0.0))
    cells = (snapshot.room.cell_of.get(d) for d, end in last.items() if abs(end - snapshot.at) <= patience_s)
    return sum(cell is not None and not fits[cell] for cell in cells)


def _parts(group: Sequence[Request], lanes: int, width: int) -> list[tuple[Request, ...]]:
    """In order: evenly over the lanes if they take all at once, else as wide as can be, since those behind the first
    will fill the seats that are left."""
    count = len(group)
    even = count <= lanes * width
    bounds = (
        [count * lane // lanes for lane in range(lanes + 1)] if even else [*range(0, count, width), count]
    )  # fmt: skip
    return [tuple(group[start:end]) for start, end in pairwise(bounds) if start < end]


def _memory(widths: Widths, request: Request, width: int) -> int:
    """Of one device, for a stack of so many like this one: as measured, else so many times what one alone takes."""
    measured = widths.memory_bytes(request.fusion_key, width)
    alone = request.demand.memory_bytes * width
    return alone if measured is None else min(alone, measured + measured // 10)


def _joined(members: Sequence[Request], widths: Widths) -> Request:
    first, expected = members[0], [request.expected_s for request in members]
    memory_bytes = max(_memory(widths, request, len(members)) for request in members)
    on_host = [request.demand.host_memory_bytes for request in members]
    demand = replace(
        first.demand,
        memory_bytes=memory_bytes,
        cpus=max(request.demand.cpus for request in members),
        # A core that stands in for a device has the host's memory for its own.
        host_memory_bytes=min(sum(on_host), max(max(on_host), memory_bytes)),
    )
    return replace(
        first,
        trial_ids=tuple(trial_id for request in members for trial_id in request.trial_ids),
        demand=demand,
        expected_s=None if None in expected else max(e for e in expected if e is not None),
    )


def _cut(placement: Placement, members: Sequence[Request], stack_id: str) -> list[Placement]:
    """Equal seats that together hold no more than the whole."""
    count = len(members)
    return [
        replace(
            placement,
            stage_key=member.stage_key,
            share=placement.share / count,
            memory_bytes=placement.memory_bytes // count,
            cpus=math.floor(placement.cpus * _MILLI / count) / _MILLI,
            host_memory_bytes=placement.host_memory_bytes // count,
            stack_id=stack_id,
        )
        for member in members
    ]


def _seat(room: Room, stack: Stack, request: Request) -> Placement | None:
    """A further seat on the stack's device, taken inside the room's attempt; None if it is not free."""
    seat = stack.seat
    cell = room.cell_of.get(seat.device_ids[0])
    if cell is None:
        return None
    demand = Demand(
        devices=1,
        share=seat.share,
        memory_bytes=seat.memory_bytes,
        cpus=seat.cpus,
        host_memory_bytes=seat.host_memory_bytes,
        models=request.demand.models,
    )
    row, column = cell
    if not (room.node_fits(demand, [row])[0] and room.fitting(demand, [row])[0, column]):
        return None
    placed = room.place(replace(request, demand=demand), ((row, (column,)),))
    return replace(placed, memory_bytes=seat.memory_bytes, stack_id=stack.stack_id, phases=seat.phases)
