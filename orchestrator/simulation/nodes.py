"""The nodes that a workload is simulated on: the trace's own, or as many as the config asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.schema import Device, DeviceKind, Node

_GIB = 1 << 30
# What nodes are like where neither the config nor the trace says it.
_DEVICES, _DEVICE_MEMORY_GIB = 8, 80.0


def nodes_of(cluster: Mapping[str, Any], own: Sequence[Node]) -> tuple[Node, ...]:
    """Those that a resolved `SimulatedClusterConfig` asks for; `own` are the trace's, and what 0 nodes stand for.

    More or fewer nodes than the trace's own are like these, each kind in its proportion, so that two more of them is
    what two more machines of the cluster would be. What the config says of a node takes the place of what they have.
    """
    count = cluster["nodes"]
    width = len(str(max(0, count - 1)))
    like = [own[number * len(own) // count] if own else Node(node_id="", devices=()) for number in range(count)]
    made = (_node(f"node-{number:0{width}d}", cluster, node) for number, node in enumerate(like))
    return tuple(made) if count else tuple(own)


def _node(node_id: str, cluster: Mapping[str, Any], like: Node) -> Node:
    """A node like the other one, but for what the config says."""
    devices = [_device(node_id, index, cluster, device) for index, device in enumerate(_devices(cluster, like))]
    cpus, host_memory_gib = cluster["cpus_per_node"], cluster["host_memory_gib_per_node"]
    return Node(
        node_id=node_id,
        devices=tuple(devices),
        cpus=like.cpus if cpus is None else cpus,
        host_memory_bytes=like.host_memory_bytes if host_memory_gib is None else int(host_memory_gib * _GIB),
    )


def _devices(cluster: Mapping[str, Any], like: Node) -> Sequence[Device]:
    """As many as the config says, by turns like those of the other node; without a number, the other node's."""
    count = cluster["devices_per_node"]
    if like.node_id and count is None:
        return like.devices
    unknown = Device(
        device_id="", node_id="", index=0, kind=DeviceKind.CUDA, memory_bytes=int(_DEVICE_MEMORY_GIB * _GIB)
    )
    turns = like.devices or (unknown,)
    return [turns[index % len(turns)] for index in range(_DEVICES if count is None else count)]


def _device(node_id: str, index: int, cluster: Mapping[str, Any], like: Device) -> Device:
    memory_gib = cluster["device_memory_gib"]
    return replace(
        like,
        device_id=f"{node_id}/{index}",
        node_id=node_id,
        index=index,
        memory_bytes=like.memory_bytes if memory_gib is None else int(memory_gib * _GIB),
        model=cluster["model"] or like.model,
    )
