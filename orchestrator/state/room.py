"""Which devices there are and what is left of each, kept up to date line by line so that a snapshot costs little."""

from collections.abc import Iterable

from orchestrator.events import NodeJoined
from orchestrator.schema import Capacity, Device, FreeDevice, Placement


class DeviceRoom:
    """Devices with their free share and memory. A snapshot is rebuilt only where something changed."""

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self._placements: dict[str, dict[str, Placement]] = {}
        self._nodes: dict[str, tuple[float, int]] = {}
        self._free: tuple[FreeDevice, ...] | None = None
        self._cached: dict[str, FreeDevice] = {}

    def join(self, event: NodeJoined) -> None:
        """Take a node's devices in; those that are known keep what sits on them."""
        for device in event.devices:
            self.devices[device.device_id] = device
            self._placements.setdefault(device.device_id, {})
            self._cached.pop(device.device_id, None)
        self._nodes[event.node_id] = (event.cpus, event.host_memory_bytes)
        self._free = None

    def leave(self, node_id: str) -> None:
        """Forget a node and its devices; nothing may sit on them any more."""
        for device_id in [d.device_id for d in self.devices.values() if d.node_id == node_id]:
            del self.devices[device_id], self._placements[device_id]
            self._cached.pop(device_id, None)
        self._nodes.pop(node_id, None)
        self._free = None

    def nodes(self) -> list[str]:
        """The ids of the nodes that are there."""
        return list(self._nodes)

    def take(self, bundle_id: str, placement: Placement) -> None:
        """A bundle sits down."""
        self._change(bundle_id, placement, sit=True)

    def give_back(self, bundle_id: str, placement: Placement) -> None:
        """A bundle gets up."""
        self._change(bundle_id, placement, sit=False)

    def free(self) -> tuple[FreeDevice, ...]:
        """What is left, by node and index."""
        if self._free is None:
            ordered = sorted(self.devices.values(), key=lambda device: (device.node_id, device.index))
            self._free = tuple(self._free_device(device) for device in ordered)
        return self._free

    def capacity(self) -> Capacity:
        """What all nodes have together."""
        return Capacity(
            devices=float(len(self.devices)),
            cpus=sum(cpus for cpus, _ in self._nodes.values()),
            host_memory_bytes=float(sum(memory for _, memory in self._nodes.values())),
        )

    def _change(self, bundle_id: str, placement: Placement, *, sit: bool) -> None:
        for device_id in self._known(placement.device_ids):
            if sit:
                self._placements[device_id][bundle_id] = placement
            else:
                self._placements[device_id].pop(bundle_id, None)
            self._cached.pop(device_id, None)
        self._free = None

    def _known(self, device_ids: Iterable[str]) -> Iterable[str]:
        return (device_id for device_id in device_ids if device_id in self.devices)

    def _free_device(self, device: Device) -> FreeDevice:
        found = self._cached.get(device.device_id)
        if found is None:
            sitting = self._placements[device.device_id].values()
            # Summed anew each time: differences of fractions would drift.
            found = FreeDevice(
                device=device,
                free_share=1.0 - sum(placement.share for placement in sitting),
                free_memory_bytes=device.memory_bytes - sum(placement.memory_bytes for placement in sitting),
                residents=len(sitting),
            )
            self._cached[device.device_id] = found
        return found
