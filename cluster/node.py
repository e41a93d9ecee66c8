"""A cluster that is this machine alone, without Ray: the same agent and forkserver, driven directly.

It starts in the time that the preload takes. Use it where one machine is all there is and nobody else shares it.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from cluster.agent import NodeAgent
from cluster.agent_config import AgentConfig
from cluster.inventory import require_gang, take_inventory
from cluster.outputs import Artifacts
from orchestrator.events import Event, Launch, NodeLost
from orchestrator.ports import ClusterUnavailable

NODE_ID = "local"


class NodeCluster:
    """`ports.Cluster` over one `NodeAgent` in this process; bundles run in processes of their own."""

    def __init__(
        self,
        *,
        home: Path,
        artifacts: Path,
        devices: int = 0,
        devices_per_trial: int = 1,
        preload: Sequence[str] = (),
        python_path: Sequence[str] = (),
        stop_grace_s: float = 30.0,
        start_timeout_s: float = 120.0,
        owner: str = "",
        term: int = 0,
    ) -> None:
        """Arguments as `cluster.ray.RayCluster` has them. Of an earlier leader's processes none outlives it, so that
        `owner` and `term` say nothing here."""
        self._home = home.absolute()
        self._artifacts = Artifacts(artifacts.absolute())
        self._devices = devices
        self._devices_per_trial = devices_per_trial
        self._preload = tuple(preload)
        self._python_path = tuple(python_path)
        self._stop_grace_s = stop_grace_s
        self._start_timeout_s = start_timeout_s
        self._agent: NodeAgent | None = None
        self._unavailable = ""

    def check(self) -> None:
        """See `ports.Cluster`."""
        require_gang(self._devices_per_trial, len(take_inventory().devices(NODE_ID, self._devices)))

    def start(self) -> None:
        """Returns once bundles can be launched at once. Raises ClusterUnavailable."""
        self._unavailable = ""
        inventory = take_inventory()
        config = AgentConfig.of_node(
            NODE_ID,
            inventory,
            self._devices,
            home=self._home,
            artifacts=self._artifacts.root,
            preload=self._preload,
            python_path=self._python_path,
            stop_grace_s=self._stop_grace_s,
        )
        require_gang(self._devices_per_trial, len(config.devices))
        self._agent = NodeAgent(config)
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._agent.start()
            self._agent.wait_ready(self._start_timeout_s)
            undo.pop_all()

    def launch(self, launch: Launch) -> None:
        """See `ports.Cluster`. Raises ClusterUnavailable before `start` and after `close`."""
        self._live_agent().launch(launch)

    def stop(self, bundle_id: str, reason: str) -> None:
        """See `ports.Cluster`. Raises ClusterUnavailable before `start` and after `close`."""
        self._live_agent().stop(bundle_id, reason)

    def poll(self, timeout_s: float) -> list[Event]:
        """See `ports.Cluster`. Raises ClusterUnavailable before `start` and after `close` too."""
        events = self._live_agent().poll(timeout_s)
        if not events and self._unavailable:
            raise ClusterUnavailable(self._unavailable)
        for event in events:
            if isinstance(event, NodeLost):
                self._unavailable = f"node {event.node_id} can run nothing any more: {event.reason}"
        return events

    def available_outputs(self, stage_keys: Sequence[str]) -> set[str]:
        """See `ports.Cluster`."""
        return self._artifacts.available(stage_keys)

    def keep_checkpoint(self, study_id: str, stage_key: str) -> tuple[str, int] | None:
        """See `ports.Cluster`."""
        return self._artifacts.keep(study_id, stage_key)

    def close(self) -> None:
        """See `ports.Cluster`."""
        if self._agent is not None:
            self._agent.close()
            self._agent = None

    def _live_agent(self) -> NodeAgent:
        if self._agent is None:
            raise ClusterUnavailable("the cluster is not running: call start() first")
        return self._agent
