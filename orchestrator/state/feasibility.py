"""What no node here can ever meet, in words, asked once per demand for as long as the nodes stay the same."""

import numpy as np

from orchestrator.schema import Demand
from orchestrator.snapshot import Room, milli_cpus
from orchestrator.state.room import DeviceRoom

_GIB = 2**30


class Feasibility:
    """Answers by demand, about the nodes of a room with nobody on them."""

    def __init__(self, room: DeviceRoom) -> None:
        self._room = room
        self._nodes = -1
        self._empty = Room([])
        self._why: dict[Demand, str] = {}

    def why_never(self, demand: Demand) -> str:
        """What the demand asks for that can't be had here, and what would do; empty if it can start on empty nodes."""
        if self._nodes != self._room.nodes_revision:
            self._nodes, self._empty = self._room.nodes_revision, self._room.empty()
            self._why.clear()
        why = self._why.get(demand)
        if why is None:
            why = self._why[demand] = _why_never(self._empty, demand)
        return why


def _why_never(room: Room, demand: Demand) -> str:
    if room.fitting_nodes(demand).any():
        return ""
    return _device_missing(room, demand) or _count_missing(room, demand) or _host_missing(room, demand)


def _device_missing(room: Room, demand: Demand) -> str:
    """No device is of the model, or has the memory."""
    if not demand.devices:
        return ""
    right = room.exists.copy()
    if demand.models:
        right &= np.isin(room.model, [room.model_code(model) for model in demand.models])
    if demand.models and not right.any():
        there = sorted({device.model for devices in room.devices for device in devices if device.model})
        return (
            f"a device of model {' or '.join(demand.models)}, and there are {', '.join(there) or 'none with a model'}; "
            "name one of those, or none"
        )
    largest = int(room.memory_bytes[right].max(initial=0))
    if largest >= demand.memory_bytes:
        return ""
    of_model = f" of model {' or '.join(demand.models)}" if demand.models else ""
    return (
        f"a device{of_model} with {demand.memory_bytes / _GIB:.1f} GiB, the largest has {largest / _GIB:.1f}; use a "
        "smaller model or batch, or bf16"
    )


def _count_missing(room: Room, demand: Demand) -> str:
    """The devices that fit are too few on as many nodes as the gang may reach over."""
    counts = np.sort(room.fitting(demand).sum(axis=1))[::-1]
    reach = max(1, demand.max_nodes)
    most = int(counts[:reach].sum())
    if most >= demand.devices:
        return ""
    on = "one node, and no node has" if reach == 1 else f"{reach} nodes, and no {reach} nodes have"
    return f"{demand.devices} devices on {on} more than {most}; lower cluster.devices_per_trial"


def _host_missing(room: Room, demand: Demand) -> str:
    """Where the devices are, the nodes have too few cores or too little memory."""
    reach = max(1, demand.max_nodes)
    if reach > 1 and _within_reach(room, demand):
        return ""
    able = room.fitting(demand).sum(axis=1) >= (demand.devices if reach == 1 else min(1, demand.devices))
    cpus = reach * int(room.milli_cpus[able].max(initial=0))
    memory_bytes = reach * int(room.host_memory_bytes[able].max(initial=0))
    beside = "beside its devices" if demand.devices else "on one node"
    if cpus < milli_cpus(demand.cpus):
        return f"{demand.cpus:g} CPU cores {beside}, and there are {cpus / 1000:g} at most; it must ask for fewer"
    if memory_bytes < demand.host_memory_bytes:
        asked, most = demand.host_memory_bytes / _GIB, memory_bytes / _GIB
        return f"{asked:.1f} GiB of host memory {beside}, and there are {most:.1f} at most; it must ask for less"
    asked = demand.host_memory_bytes / _GIB
    return (
        f"{demand.devices} devices with {demand.cpus:g} CPU cores and {asked:.1f} GiB of host memory, and no node has "
        "all of it; it must ask for less of one of them"
    )


def _within_reach(room: Room, demand: Demand) -> bool:
    """Whether a gang finds its devices on at most `max_nodes` nodes, with cores and memory in proportion."""
    counts = room.fitting(demand).sum(axis=1)
    for free, asked in ((room.milli_cpus, milli_cpus(demand.cpus)), (room.host_memory_bytes, demand.host_memory_bytes)):
        # Divided first in part, since what is no limit is close to the largest number there is.
        if asked:
            counts = np.minimum(counts, free // (asked // demand.devices or 1))
    return bool(np.sort(counts)[::-1][: demand.max_nodes].sum() >= demand.devices)
