"""Which nodes of a Ray cluster to take devices of."""

from collections.abc import Sequence
from typing import Any

from cluster.inventory import require_devices, require_gang
from orchestrator.schema import DeviceKind

RayNode = dict[str, Any]
"""An entry of `ray.nodes()`."""


def choose_nodes(
    nodes: Sequence[RayNode], devices: int, devices_per_trial: int
) -> tuple[dict[str, tuple[RayNode, int]], DeviceKind]:
    """How many devices of which nodes, by our name for the node, and of what kind: GPUs if any node has one.

    Takes `devices` (0: all) from the living nodes in the order of their names. Raises ClusterUnavailable if there are
    fewer, or if no node gives `devices_per_trial`.
    """
    alive = [node for node in nodes if node["Alive"]]
    kind = DeviceKind.CUDA if any(node["Resources"].get("GPU", 0) >= 1 for node in alive) else DeviceKind.CPU
    resource = "GPU" if kind is DeviceKind.CUDA else "CPU"
    found = {_name(node, alive): (node, int(node["Resources"].get(resource, 0))) for node in alive}
    total = sum(count for _, count in found.values())
    require_devices(devices, total, kind)
    left = devices or total
    chosen = {}
    for node_id in sorted(found):
        node, count = found[node_id]
        if min(count, left) > 0:
            chosen[node_id] = (node, min(count, left))
            left -= min(count, left)
    require_gang(devices_per_trial, max(count for _, count in chosen.values()))
    return chosen, kind


def _name(node: RayNode, nodes: Sequence[RayNode]) -> str:
    """The host's name, with a part of Ray's id where several nodes run on one host."""
    name = str(node["NodeManagerHostname"])
    alone = sum(other["NodeManagerHostname"] == name for other in nodes) == 1
    return name if alone else f"{name}-{node['NodeID'][:6]}"
