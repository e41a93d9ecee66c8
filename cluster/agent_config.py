"""What an agent is told about its node."""

from dataclasses import dataclass
from pathlib import Path

from cluster.forkserver_client import ForkserverSpec
from orchestrator.schema import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """What an agent holds and how it behaves.

    `cores` are the CPU cores that `devices` refer to by index (cpu) or that their bundles share (cuda). Logs go to
    `logs`, one per bundle. `stop_grace_s`: how long a bundle may take to its next step boundary before it is killed.
    `memory_sample_s`: how often the host memory of a bundle's processes is looked at (device_kind=cpu).
    """

    node_id: str
    devices: tuple[Device, ...]
    cores: tuple[int, ...]
    artifacts: Path
    logs: Path
    preload: tuple[str, ...] = ()
    python_path: tuple[str, ...] = ()
    stop_grace_s: float = 30.0
    memory_sample_s: float = 0.5

    def forkserver(self) -> ForkserverSpec:
        """The forkserver that serves this node."""
        return ForkserverSpec(
            preload=self.preload,
            python_path=self.python_path,
            device_kind=self.devices[0].kind,
            log=self.logs / f"forkserver-{self.node_id}.log",
        )
