"""The Ray actor that holds a node's devices: a `NodeAgent` behind remote calls."""

import os
import threading
import time
import uuid
from pathlib import Path

import ray

from cluster.agent import NodeAgent
from cluster.agent_config import AgentConfig
from cluster.inventory import take_inventory
from cluster.ray.pulse import live_with, pulse_path
from orchestrator.events import Event, Launch


@ray.remote(concurrency_groups={"poll": 1, "control": 1})  # type: ignore[call-overload]
class AgentActor:
    """Each group of calls has its own thread: a long poll never holds up a launch, and launch and stop of a bundle
    keep their order."""

    def __init__(
        self,
        node_id: str,
        devices: int,
        home: str,
        artifacts: str,
        preload: tuple[str, ...],
        python_path: tuple[str, ...],
        stop_grace_s: float,
        forkserver_address: str,
    ) -> None:
        """Starts the preload (or joins the one behind `forkserver_address`) and returns. Raises ClusterUnavailable if
        the node has fewer than `devices`."""
        self._agent = NodeAgent(
            AgentConfig.of_node(
                node_id,
                take_inventory(),
                devices,
                home=Path(home),
                artifacts=Path(artifacts),
                preload=preload,
                python_path=python_path,
                stop_grace_s=stop_grace_s,
            ),
            forkserver_address,
        )
        self._life = uuid.uuid4().hex
        pulse = pulse_path(Path(home), self._life)
        threading.Thread(target=live_with, args=(os.getppid(), pulse), name="pulse", daemon=True).start()
        self._agent.start()

    @ray.method(concurrency_group="poll")
    def wait_ready(self, timeout_s: float) -> None:
        """See `NodeAgent.wait_ready`."""
        self._agent.wait_ready(timeout_s)

    @ray.method(concurrency_group="poll")
    def poll(self, timeout_s: float) -> tuple[str, list[Event]]:
        """Which life of the actor this is (it changes when Ray restarts it), and what `NodeAgent.poll` gives."""
        return self._life, self._agent.poll(timeout_s)

    @ray.method(concurrency_group="control")
    def launch(self, launch: Launch) -> None:
        """See `NodeAgent.launch`."""
        self._agent.launch(launch)

    @ray.method(concurrency_group="control")
    def stop(self, bundle_id: str, reason: str) -> None:
        """See `NodeAgent.stop`."""
        self._agent.stop(bundle_id, reason)

    @ray.method(concurrency_group="control")
    def close(self) -> float:
        """See `NodeAgent.close`; when it was done [seconds since the epoch]."""
        self._agent.close()
        return time.time()
