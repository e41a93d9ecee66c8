"""What an agent is told about its node."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cluster.forkserver_client import ForkserverSpec
from cluster.inventory import Inventory
from orchestrator.events import NodeJoined
from orchestrator.schema import Device, DeviceKind


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """What an agent holds and how it behaves.

    `cores` are the CPU cores that `devices` refer to by index (cpu) or that their bundles share (cuda), and
    `host_memory_bytes` is the node's memory. Logs go to `logs`, one per bundle. `stop_grace_s`: how long a bundle may
    take to its next step boundary before it is killed. `memory_sample_s`: how often the host memory of a bundle's
    processes is looked at.
    """

    node_id: str
    devices: tuple[Device, ...]
    cores: tuple[int, ...]
    host_memory_bytes: int
    artifacts: Path
    logs: Path
    preload: tuple[str, ...] = ()
    python_path: tuple[str, ...] = ()
    stop_grace_s: float = 30.0
    memory_sample_s: float = 0.5

    @classmethod
    def of_node(
        cls, node_id: str, inventory: Inventory, devices: int, *, home: Path, artifacts: Path, **options: Any
    ) -> Self:
        """For the first `devices` devices (0: all) of this node. Raises ClusterUnavailable if there are fewer."""
        return cls(
            node_id=node_id,
            devices=inventory.devices(node_id, devices),
            cores=inventory.cores,
            host_memory_bytes=inventory.host_memory_bytes,
            artifacts=artifacts,
            logs=home / "logs",
            **options,
        )

    def joined(self, at: float) -> NodeJoined:
        """The offer of this node. Where cores stand in for GPUs, what goes with some of them is their part of it."""
        cpus, memory_bytes = len(self.cores), self.host_memory_bytes
        if self.devices[0].kind is DeviceKind.CPU:
            cpus, memory_bytes = len(self.devices), sum(device.memory_bytes for device in self.devices)
        return NodeJoined(
            at=at, node_id=self.node_id, devices=self.devices, cpus=float(cpus), host_memory_bytes=memory_bytes
        )

    def forkserver(self) -> ForkserverSpec:
        """The forkserver that serves this node."""
        return ForkserverSpec(
            preload=self.preload,
            python_path=self.python_path,
            device_kind=self.devices[0].kind,
            log=self.logs / f"forkserver-{self.node_id}.log",
        )
