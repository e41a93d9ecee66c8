"""The packing policies once more, device by device in plain Python: what the vectorised ones must equal exactly.

They know no gangs over several nodes and no kinds of work that may not sit together.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.packing.fragments import typical
from orchestrator.schema import Demand, Node, Placement, Request
from orchestrator.snapshot import SHARE_UNITS, milli_cpus, share_units


@dataclass(slots=True)
class PlainDevice:
    """`share` and `memory_bytes` are what is left."""

    device_id: str
    model: str
    whole_memory_bytes: int
    memory_bytes: int
    share: int = SHARE_UNITS
    residents: int = 0


@dataclass(slots=True)
class PlainNode:
    """`cpus` (in thousandths) and `host_memory_bytes` are what is left, infinite where nobody said; `sizes` has how
    many devices each of those holds who sit there, 0 for a part of one."""

    node_id: str
    devices: list[PlainDevice]
    whole_cpus: float
    cpus: float
    host_memory_bytes: float
    sizes: list[int] = field(default_factory=list)

    def fitting(self, demand: Demand) -> list[int]:
        """The devices that the demand fits, none if it doesn't fit the node."""
        if not self.hosts(demand):
            return []
        return [index for index, device in enumerate(self.devices) if device_fits(device, demand)]

    def hosts(self, demand: Demand) -> bool:
        enough = milli_cpus(demand.cpus) <= self.cpus and demand.host_memory_bytes <= self.host_memory_bytes
        return enough and sum(device_fits(device, demand) for device in self.devices) >= demand.devices

    def left(self) -> int:
        return sum(device.share for device in self.devices)


def device_fits(device: PlainDevice, demand: Demand) -> bool:
    if demand.models and device.model not in demand.models:
        return False
    return device.share >= share_units(demand.share) and device.memory_bytes >= demand.memory_bytes


class PlainRoom:
    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = [plain(node) for node in sorted(nodes, key=lambda node: node.node_id)]
        self.most_share = max([1, *(len(node.devices) for node in self.nodes)]) * SHARE_UNITS
        self.most_cpus = max([1.0, *(node.whole_cpus for node in self.nodes if node.whole_cpus < math.inf)])

    def cpus_left(self, node: PlainNode) -> float:
        return 0.0 if node.cpus == math.inf else node.cpus / self.most_cpus

    def share_left(self, node: PlainNode) -> float:
        return node.left() / self.most_share

    def take(self, placement: Placement, sign: int = 1) -> None:
        """With `sign` -1 it gives back."""
        (node_id,) = set(placement.node_ids)
        node = next(node for node in self.nodes if node.node_id == node_id)
        for device in node.devices:
            if device.device_id in placement.device_ids:
                device.share -= sign * share_units(placement.share)
                device.memory_bytes -= sign * placement.memory_bytes
                device.residents += sign
        node.cpus -= sign * milli_cpus(placement.cpus)
        node.host_memory_bytes -= sign * placement.host_memory_bytes
        if held := len(placement.device_ids):
            size = 0 if held == 1 and placement.share < 1 else held
            node.sizes.append(size) if sign > 0 else node.sizes.remove(size)


def plain(node: Node) -> PlainNode:
    devices = [
        PlainDevice(device.device_id, device.model, device.memory_bytes, device.memory_bytes)
        for device in sorted(node.devices, key=lambda device: device.index)
    ]
    cpus = milli_cpus(node.cpus) or math.inf
    return PlainNode(node.node_id, devices, cpus, cpus, node.host_memory_bytes or math.inf)


Spot = tuple[PlainNode, list[int]]
# The better of two nodes has the smaller value; nodes that the demand doesn't fit are not asked about.
Value = Callable[[PlainRoom, PlainNode, Demand], float]
Devices = Callable[[PlainNode, Demand], list[int]]


def first_of(room: PlainRoom, demand: Demand, value: Value, devices: Devices) -> Spot | None:
    """The node with the least value, the first of equals."""
    best: tuple[float, Spot] | None = None
    for node in room.nodes:
        if node.hosts(demand):
            found = value(room, node, demand)
            if best is None or found < best[0]:
                best = found, (node, devices(node, demand) if demand.devices else [])
    return best[1] if best else None


def tightest(node: PlainNode, demand: Demand) -> list[int]:
    def key(index: int) -> tuple[int, int]:
        return node.devices[index].share, node.devices[index].memory_bytes

    return sorted(node.fitting(demand), key=key)[: demand.devices]


def plain_best_fit(room: PlainRoom, demand: Demand) -> Spot | None:
    return first_of(room, demand, lambda r, n, _: 0.5 * r.share_left(n) + 0.5 * r.cpus_left(n), tightest)


def plain_first_fit(room: PlainRoom, demand: Demand) -> Spot | None:
    return first_of(room, demand, lambda *_: 0, lambda node, d: node.fitting(d)[: d.devices])


def plain_exclusive(room: PlainRoom, demand: Demand) -> Spot | None:
    """Asked about a demand for whole devices."""

    def empty(node: PlainNode, _: Demand) -> list[int]:
        return [index for index in node.fitting(demand) if not node.devices[index].residents][: demand.devices]

    def value(_: PlainRoom, node: PlainNode, __: Demand) -> float:
        return 0 if len(empty(node, demand)) == demand.devices else math.inf

    spot = first_of(room, demand, value, empty)
    return spot if spot and len(spot[1]) == demand.devices else None


def plain_dot_product(room: PlainRoom, demand: Demand) -> Spot | None:
    def value(_: PlainRoom, node: PlainNode, __: Demand) -> float:
        share = demand.devices * share_units(demand.share) / room.most_share * room.share_left(node)
        cpus = milli_cpus(demand.cpus) / room.most_cpus * room.cpus_left(node)
        return -math.floor(100.0 * (1 - (share + cpus) / 2))

    return first_of(room, demand, value, tightest)


def plain_gpu_packing(room: PlainRoom, demand: Demand) -> Spot | None:
    def value(_: PlainRoom, node: PlainNode, __: Demand) -> float:
        if not demand.devices:
            return 0
        free = [device for device in node.devices if device.share == SHARE_UNITS]
        if len(free) == len(node.devices):
            return -max(33 - len(free), 0)
        chosen = [node.devices[index] for index in tightest(node, demand)]
        of_free = sum(device.share == SHARE_UNITS for device in chosen)
        if of_free:
            return -max(50 - of_free, 33)
        return -max(100 - sum(device.share * 100 // SHARE_UNITS for device in chosen) // 10, 50)

    return first_of(room, demand, value, tightest)


def plain_gpu_clustering(room: PlainRoom, demand: Demand) -> Spot | None:
    def value(_: PlainRoom, node: PlainNode, __: Demand) -> float:
        if not demand.devices:
            return 0
        size, present = 0 if demand.devices == 1 and demand.share < 1 else demand.devices, set(node.sizes)
        tiers = {(True, True): 75, (True, False): 50, (False, True): 25, (False, False): 0}
        tier = tiers[size in present, len(present - {size}) == 0]
        return -(tier + 25 * (room.most_share - node.left()) // room.most_share)

    return first_of(room, demand, value, tightest)


def fragments(node: PlainNode, weights: Sequence[tuple[Demand, int]]) -> int:
    """What the demands can't use of what devices have left, in share units x weights."""
    amount = 0
    for demand, weight in weights:
        usable = set(node.fitting(demand)) if demand.devices else set()
        amount += weight * sum(device.share for index, device in enumerate(node.devices) if index not in usable)
    return amount


def fgd_score(node: PlainNode, demand: Demand, chosen: Sequence[int], weights: Sequence[tuple[Demand, int]]) -> int:
    """From 0 to 100 for taking these devices."""
    grants = [
        max(demand.memory_bytes, min(int(demand.share * device.whole_memory_bytes), device.memory_bytes))
        for device in (node.devices[index] for index in chosen)
    ]
    devices = [
        replace(device, share=device.share - share_units(demand.share), memory_bytes=device.memory_bytes - min(grants))
        if index in chosen
        else device
        for index, device in enumerate(node.devices)
    ]
    after = replace(
        node,
        devices=devices,
        cpus=node.cpus - milli_cpus(demand.cpus),
        host_memory_bytes=node.host_memory_bytes - demand.host_memory_bytes,
    )
    unit = max(1, sum(weight for _, weight in weights)) * SHARE_UNITS
    decrease = (fragments(node, weights) - fragments(after, weights)) / unit
    return int(100 / (1 + math.exp(-decrease)))


def plain_fragmentation(room: PlainRoom, demand: Demand, expected: Mapping[Demand, float]) -> Spot | None:
    weights = typical(expected, 0.95)

    def best(node: PlainNode, _: Demand) -> list[int]:
        order = sorted(node.fitting(demand), key=lambda index: -fgd_score(node, demand, [index], weights))
        return order[: demand.devices]

    def value(_: PlainRoom, node: PlainNode, __: Demand) -> float:
        return -fgd_score(node, demand, best(node, demand) if demand.devices else [], weights)

    return first_of(room, demand, value, best)


Choose = Callable[[PlainRoom, Demand], Spot | None]


def served(room: PlainRoom, requests: Sequence[Request], choose: Choose, *, whole: bool = False) -> list[Placement]:
    """One after the other, up to the first that fits nowhere; they stay."""
    placements: list[Placement] = []
    for request in requests:
        demand = replace(request.demand, share=1.0) if whole else request.demand
        spot = choose(room, demand)
        if spot is None:
            break
        node, chosen = spot
        devices = [node.devices[index] for index in chosen]
        in_share = [min(int(demand.share * device.whole_memory_bytes), device.memory_bytes) for device in devices]
        placement = Placement(
            stage_key=request.stage_key,
            device_ids=tuple(device.device_id for device in devices),
            share=demand.share,
            memory_bytes=max(demand.memory_bytes, min(in_share)) if devices else demand.memory_bytes,
            node_ids=tuple(node.node_id for _ in devices) or (node.node_id,),
            cpus=demand.cpus,
            host_memory_bytes=demand.host_memory_bytes,
        )
        room.take(placement)
        placements.append(placement)
    return placements
