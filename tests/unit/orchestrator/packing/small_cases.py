"""Random small cases: a batch of requests on a small cluster that is in part full."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from orchestrator.packing import BestFit
from orchestrator.schema import Demand, Node, Request
from orchestrator.snapshot import Room
from tests.unit.orchestrator.packing.cases import asking, demand, node, snapshot

_PARTS = (0.1, 0.16, 0.23, 0.32, 0.47, 0.5, 0.65, 0.81)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`room` as it is, and who asks."""

    room: Room
    requests: Sequence[Request]


def small_case(random: Random) -> Case:
    """Two to four nodes of up to four devices, a third of them held, and requests for about as much as is left or half
    as much again: parts of devices, whole ones, gangs on one or two nodes, with cores and host memory that may bind."""
    nodes = [_node(random, name) for name in "abcd"[: random.randint(2, 4)]]
    devices = sum(len(one.devices) for one in nodes)
    room = Room(nodes)
    before = asking(*_demands(random, devices * random.uniform(0.1, 0.5)), first=1000)
    random.shuffle(before)
    for request in before:
        for placement in BestFit()(snapshot(room), [request]):
            room.take(placement, request.demand.kind)
    left = float(room.share[room.exists].sum()) / 1e6
    return Case(room=room, requests=asking(*_demands(random, left * random.uniform(0.8, 1.5))))


def _node(random: Random, name: str) -> Node:
    devices = random.randint(1, 4)
    return node(
        name,
        devices,
        memory_gib=random.choice([16, 24]),
        model=random.choice("AB"),
        cpus=devices * random.choice([6.0, 8.0, 16.0]),
        host_gib=devices * random.choice([32, 64]),
    )


def _demands(random: Random, share: float) -> list[Demand]:
    """Demands for this share of devices in all, or a little more."""
    found: list[Demand] = []
    while share > 0:
        devices = random.choices([0, 1, 2, 3, 4], [1, 12, 3, 1, 1])[0]
        part = random.choice(_PARTS) if random.random() < 0.6 and devices < 3 else 1.0
        size = max(1.0, devices * part)
        found.append(
            demand(
                devices,
                part,
                cpus=round(size * random.choice([1.0, 4.0, 6.0, 8.0, 12.0]), 1),
                host_gib=round(size * random.choice([4, 16, 32, 48])),
                models=random.choice([(), (), (), ("A",), ("B",)]),
                max_nodes=random.choice([1, 2]) if devices > 1 else 1,
            )
        )
        share -= devices * part
    return found
