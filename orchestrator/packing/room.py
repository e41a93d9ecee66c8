"""What is left on each device while a policy fills it: the bookkeeping that every packing policy needs."""

from collections.abc import Iterator, Sequence

from orchestrator.schema import FreeDevice, Placement, Request

# Shares are sums of decimal fractions; ten of 0.1 must fill one device.
SHARE_TOLERANCE = 1e-9


class Room:
    """Free share and memory per device. Devices keep the order they were given in; a gang stays on one node."""

    def __init__(self, devices: Sequence[FreeDevice]) -> None:
        self._devices = list(devices)
        self._share = [device.free_share for device in devices]
        self._memory = [device.free_memory_bytes for device in devices]
        self._residents = [device.residents for device in devices]

    def fitting(self, request: Request, share: float) -> Iterator[tuple[str, list[int]]]:
        """For each node in order: the indexes of its devices with `share` and the request's memory free."""
        by_node: dict[str, list[int]] = {}
        for index, free in enumerate(self._devices):
            enough_memory = self._memory[index] >= request.demand.memory_bytes
            if enough_memory and self._share[index] + SHARE_TOLERANCE >= share:
                by_node.setdefault(free.device.node_id, []).append(index)
        yield from by_node.items()

    def free_share(self, index: int) -> float:
        """Share left on a device (0 to 1)."""
        return self._share[index]

    def free_memory_bytes(self, index: int) -> int:
        """Memory left on a device."""
        return self._memory[index]

    def is_empty(self, index: int) -> bool:
        """Whether nobody sits on a device."""
        return self._residents[index] == 0

    def place(self, request: Request, indexes: Sequence[int], share: float) -> Placement:
        """Take the room and say so. A share of a device is that share of its memory, or what is asked for if more."""
        in_share = min(min(int(share * self._devices[i].device.memory_bytes), self._memory[i]) for i in indexes)
        granted = max(request.demand.memory_bytes, in_share)
        for index in indexes:
            self._share[index] -= share
            self._memory[index] -= granted
            self._residents[index] += 1
        return Placement(
            stage_key=request.stage_key,
            device_ids=tuple(self._devices[index].device.device_id for index in indexes),
            share=share,
            memory_bytes=granted,
        )
