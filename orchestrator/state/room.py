"""Which nodes there are and who sits on them. The room that policies look at lives as long as the nodes stay."""

from collections.abc import Mapping, Sequence

from orchestrator.events import NodeJoined
from orchestrator.schema import Capacity, Device, FreeDevice, Node, Placement
from orchestrator.snapshot import Room
from orchestrator.snapshot.room import NO_LIMIT


class DeviceRoom:
    """Nodes, their devices, and the placements on them. `devices` maps ids to devices; `nodes_revision` grows whenever
    a node comes, changes or goes."""

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self.nodes_revision = 0
        self._nodes: dict[str, Node] = {}
        self._sitting: dict[str, tuple[Placement, str]] = {}
        self._conflicts: Mapping[str, Sequence[str]] = {}
        self._excess: Mapping[tuple[str, str], float] = {}
        self._room: Room | None = None
        # By model, the memory of its largest device; and the most host memory of a node.
        self._largest: dict[str, int] | None = {}
        self._common: dict[tuple[str, ...], int] = {}
        self._largest_host = 0

    def join(self, event: NodeJoined) -> None:
        """Take a node's devices in; those that are known keep what sits on them."""
        known = self._nodes.get(event.node_id)
        devices = {device.device_id: device for device in (*(known.devices if known else ()), *event.devices)}
        self._nodes[event.node_id] = Node(
            node_id=event.node_id,
            devices=tuple(devices.values()),
            cpus=event.cpus,
            host_memory_bytes=event.host_memory_bytes,
        )
        self.devices.update(devices)
        if known is None and self._largest is not None:
            self._measure_sizes(self._largest, self._nodes[event.node_id])
        else:
            self._largest = None
        self._nodes_changed()

    def leave(self, node_id: str) -> None:
        """Forget a node and its devices; nothing may sit on them any more."""
        node = self._nodes.pop(node_id, None)
        for device in node.devices if node else ():
            del self.devices[device.device_id]
        self._largest = None
        self._nodes_changed()

    def _measure_sizes(self, largest: dict[str, int], node: Node) -> None:
        for device in node.devices:
            largest[device.model] = max(device.memory_bytes, largest.get(device.model, 0))
        self._largest_host = max(self._largest_host, node.host_memory_bytes or NO_LIMIT)

    def _sizes(self) -> dict[str, int]:
        if self._largest is None:
            self._largest, self._largest_host = {}, 0
            for node in self._nodes.values():
                self._measure_sizes(self._largest, node)
        return self._largest

    def largest_memory_bytes(self, models: Sequence[str] = ()) -> int:
        """Memory of the largest device, of one of these models if any are named; 0 if there is none."""
        largest = self._sizes()
        return max((largest.get(model, 0) for model in models or largest), default=0)

    def common_memory_bytes(self, models: Sequence[str] = ()) -> int:
        """Memory of each device, of these models if any are named; 0 if there is none, or they differ in it."""
        chosen = tuple(models)
        if chosen not in self._common:
            sizes = {d.memory_bytes for d in self.devices.values() if not chosen or d.model in chosen}
            self._common[chosen] = sizes.pop() if len(sizes) == 1 else 0
        return self._common[chosen]

    def largest_host_memory_bytes(self) -> int:
        """The most host memory that a node has; `NO_LIMIT` if one doesn't say, 0 if there is no node."""
        self._sizes()
        return self._largest_host

    def largest(self) -> tuple[tuple[tuple[str, int], ...], int]:
        """Changes when what any demand can find at most does: the largest device of each model, and node."""
        return tuple(sorted(self._sizes().items())), self._largest_host

    def _nodes_changed(self) -> None:
        self._room = None
        self._common.clear()
        self.nodes_revision += 1

    def nodes(self) -> list[str]:
        """The ids of the nodes that are there."""
        return list(self._nodes)

    def in_order(self) -> tuple[Device, ...]:
        """The devices by node and index."""
        nodes = (self._nodes[node_id] for node_id in sorted(self._nodes))
        return tuple(device for node in nodes for device in sorted(node.devices, key=lambda d: d.index))

    def empty(self) -> Room:
        """A room of its own of the same nodes, with nobody on them."""
        return Room(list(self._nodes.values()))

    def take(self, bundle_id: str, placement: Placement, kind: str) -> None:
        """A bundle, doing work of this kind, sits down."""
        self._sitting[bundle_id] = placement, kind
        if self._room is not None:
            self._room.take(placement, kind)

    def give_back(self, bundle_id: str) -> None:
        """A bundle gets up."""
        placement, kind = self._sitting.pop(bundle_id)
        if self._room is not None:
            self._room.give_back(placement, kind)

    def is_alone(self, placement: Placement) -> bool:
        """Whether nobody else sits on the placement's devices."""
        room = self.now()
        cells = [room.cell_of[device_id] for device_id in placement.device_ids if device_id in room.cell_of]
        return all(room.residents.item(cell) == 1 for cell in cells)

    def bar(self, conflicts: Mapping[str, Sequence[str]]) -> None:
        """Which kinds of work may not sit beside which others."""
        self._conflicts = conflicts
        if self._room is not None:
            self._room.bar(conflicts)

    def know(self, excess: Mapping[tuple[str, str], float]) -> None:
        """How much kinds of work slow each other down, see `Room.know`."""
        self._excess = excess
        if self._room is not None:
            self._room.know(excess)

    def now(self) -> Room:
        """What is left, kept up to date by `take` and `give_back`."""
        if self._room is None:
            self._room = Room(list(self._nodes.values()))
            self._room.bar(self._conflicts)
            self._room.know(self._excess)
            for placement, kind in self._sitting.values():
                self._room.take(placement, kind)
        return self._room

    def free(self) -> tuple[FreeDevice, ...]:
        """What is left of each device, by node and index."""
        return self.now().free()

    def capacity(self) -> Capacity:
        """What all nodes have together."""
        return self.now().capacity()
