"""The packing policies once more, device by device in plain Python: what the vectorised ones must equal exactly."""

from collections.abc import Iterator, Sequence

from orchestrator.packing.room import SHARE_TOLERANCE
from orchestrator.schema import FreeDevice, Placement, Request


class PlainRoom:
    def __init__(self, devices: Sequence[FreeDevice]) -> None:
        self.devices = list(devices)
        self.share = [device.free_share for device in devices]
        self.memory = [device.free_memory_bytes for device in devices]
        self.residents = [device.residents for device in devices]

    def fitting(self, request: Request, share: float) -> Iterator[list[int]]:
        """For each node, in the order of its first fitting device: the devices that fit."""
        by_node: dict[str, list[int]] = {}
        for index, free in enumerate(self.devices):
            enough_memory = self.memory[index] >= request.demand.memory_bytes
            if enough_memory and self.share[index] + SHARE_TOLERANCE >= share:
                by_node.setdefault(free.device.node_id, []).append(index)
        yield from by_node.values()

    def place(self, request: Request, indexes: Sequence[int], share: float) -> Placement:
        in_share = min(min(int(share * self.devices[i].device.memory_bytes), self.memory[i]) for i in indexes)
        granted = max(request.demand.memory_bytes, in_share)
        for index in indexes:
            self.share[index] -= share
            self.memory[index] -= granted
            self.residents[index] += 1
        return Placement(
            stage_key=request.stage_key,
            device_ids=tuple(self.devices[index].device.device_id for index in indexes),
            share=share,
            memory_bytes=granted,
        )


def plain_best_fit(devices: Sequence[FreeDevice], requests: Sequence[Request]) -> list[Placement]:
    room = PlainRoom(devices)
    placements: list[Placement] = []
    for request in requests:
        share, wanted = request.demand.share, request.demand.devices
        best: tuple[tuple[float, int], list[int]] | None = None
        for indexes in room.fitting(request, share):
            if len(indexes) < wanted:
                continue
            tightest = sorted(indexes, key=lambda i: (room.share[i], room.memory[i]))[:wanted]
            left = sum(room.share[i] for i in tightest), sum(room.memory[i] for i in tightest)
            if best is None or left < best[0]:
                best = left, tightest
        if best is None:
            break
        placements.append(room.place(request, best[1], share))
    return placements


def plain_exclusive(devices: Sequence[FreeDevice], requests: Sequence[Request]) -> list[Placement]:
    room = PlainRoom(devices)
    placements: list[Placement] = []
    for request in requests:
        wanted = request.demand.devices
        free = ([i for i in indexes if room.residents[i] == 0] for indexes in room.fitting(request, share=1.0))
        chosen = next((indexes[:wanted] for indexes in free if len(indexes) >= wanted), None)
        if chosen is None:
            break
        placements.append(room.place(request, chosen, share=1.0))
    return placements
