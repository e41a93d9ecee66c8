"""The driver's side of the cluster on Ray: takes nodes' devices, hands launches out, gathers events."""

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.forkserver_client import ForkserverProcess, ForkserverSpec
from cluster.inventory import Inventory, require_devices, require_gang, take_inventory
from cluster.outputs import Artifacts
from cluster.ray.actor import AgentActor
from cluster.ray.embedded import start_ray, stop_ray
from orchestrator.events import (
    BundleStopped,
    Event,
    Launch,
    NodeJoined,
    NodeLost,
    StageCompleted,
    StageRaised,
    WorkerLost,
)
from orchestrator.ports import ClusterUnavailable
from orchestrator.schema import DeviceKind

_POLL_S = 10.0
_CLOSE_S = 10.0
_CONNECT_S = 5.0
_AGENT_RESTARTS = 3
_RESTART_POLL_S = 0.2
_TERMINAL = (StageCompleted, StageRaised, WorkerLost, BundleStopped)


@dataclass(slots=True)
class _Node:
    """A node whose devices we hold."""

    node_id: str
    group: Any
    actor: Any
    bundles: set[str] = field(default_factory=set)
    lost: bool = False
    thread: threading.Thread | None = None


class RayCluster:
    """`ports.Cluster` on Ray. One agent actor per node holds that node's devices through a placement group.

    `start` and `close` belong to the main thread; `launch`, `stop` and `poll` may be called from any.
    """

    def __init__(
        self,
        *,
        home: Path,
        artifacts: Path,
        devices: int = 0,
        devices_per_trial: int = 1,
        address: str = "",
        preload: Sequence[str] = (),
        python_path: Sequence[str] = (),
        stop_grace_s: float = 30.0,
        start_timeout_s: float = 120.0,
    ) -> None:
        """`home`: logs go to `home/logs`, one per bundle. `artifacts`: outputs, checkpoints and the cache; on several
        nodes both lie on a file system that they share.

        `devices`: how many to take (0: all there are). `devices_per_trial`: how many of them one node must have.
        `address`: a Ray cluster to join; "" starts one on this machine for the time of this object. `preload`: modules
        that the forkserver imports. `python_path`: folders that payloads are imported from besides the installed
        packages. `stop_grace_s`: how long a bundle may take to its next step boundary once asked to stop.
        `start_timeout_s`: how long `start` waits for devices and the preload.
        """
        # Workers run in other folders and on other nodes: a relative path would mean something else there.
        self._home = home.absolute()
        self._artifacts = Artifacts(artifacts.absolute())
        self._devices = devices
        self._devices_per_trial = devices_per_trial
        self._address = address
        self._preload = tuple(preload)
        self._python_path = tuple(python_path)
        self._stop_grace_s = stop_grace_s
        self._start_timeout_s = start_timeout_s
        self._lock = threading.Lock()
        self._batches: queue.SimpleQueue[list[Event]] = queue.SimpleQueue()
        self._nodes: dict[str, _Node] = {}
        self._bundle_nodes: dict[str, str] = {}
        self._orphans: list[str] = []
        self._early: ForkserverProcess | None = None
        self._ray_folder = ""
        self._joined = False
        self._closing = False

    def check(self) -> None:
        """See `ports.Cluster`. Of a cluster at an address it is only asked whether anybody answers."""
        if self._address:
            self._check_address()
        else:
            require_gang(self._devices_per_trial, len(take_inventory().devices("", self._devices)))

    def start(self) -> None:
        """Returns once bundles can be launched at once. Raises ClusterUnavailable; then nothing is left running."""
        try:
            if self._address or ray.is_initialized():
                self._join()
            else:
                self._start_embedded()
        except RayError as error:
            self.close()
            raise ClusterUnavailable(f"cluster.address={self._address!r}: Ray failed: {error}") from error
        except BaseException:  # KeyboardInterrupt too: whoever interrupts a start wants nothing left of it
            self.close()
            raise

    def launch(self, launch: Launch) -> None:
        """See `ports.Cluster`."""
        nodes = {device.node_id for device in launch.devices}
        with self._lock:
            node = self._nodes.get(next(iter(nodes), ""))
            if len(nodes) == 1 and node is not None and not node.lost:
                node.bundles.add(launch.bundle_id)
                self._bundle_nodes[launch.bundle_id] = node.node_id
                node.actor.launch.remote(launch)
                return
        at = time.time()
        if len(nodes) == 1:
            reason = f"node {next(iter(nodes))} is gone"
            self._batches.put([WorkerLost(at=at, bundle_id=launch.bundle_id, reason=reason)])
        else:
            error = f"a bundle runs on the devices of one node, this one was given devices of {sorted(nodes)}"
            self._batches.put([StageRaised(at=at, bundle_id=launch.bundle_id, error=error)])

    def stop(self, bundle_id: str, reason: str) -> None:
        """See `ports.Cluster`."""
        with self._lock:
            node = self._nodes.get(self._bundle_nodes.get(bundle_id, ""))
            if node is not None and not node.lost:
                node.actor.stop.remote(bundle_id, reason)

    def poll(self, timeout_s: float) -> list[Event]:
        """See `ports.Cluster`."""
        events: list[Event] = []
        with contextlib.suppress(queue.Empty):
            events += self._batches.get(timeout=timeout_s) if timeout_s > 0 else self._batches.get_nowait()
            while True:
                events += self._batches.get_nowait()
        return events

    def available_outputs(self, stage_keys: Sequence[str]) -> set[str]:
        """See `ports.Cluster`."""
        return self._artifacts.available(stage_keys)

    def close(self) -> None:
        """See `ports.Cluster`."""
        self._closing = True
        nodes, self._nodes = list(self._nodes.values()), {}
        if ray.is_initialized():
            closing = [node.actor.close.remote() for node in nodes if not node.lost]
            with contextlib.suppress(RayError):  # an agent that is dead or stuck is killed below
                ray.get(closing, timeout=_CLOSE_S)
            for node in nodes:
                with contextlib.suppress(RayError, ValueError):
                    ray.kill(node.actor)
                    remove_placement_group(node.group)
        if self._early is not None:
            self._early.kill()
            self._early = None
        if self._ray_folder:
            stop_ray(self._ray_folder)
            self._ray_folder = ""
        elif self._joined:
            ray.shutdown()
            self._joined = False
        for node in nodes:
            if node.thread is not None:
                node.thread.join(_CLOSE_S)
        orphans, self._orphans = self._orphans, []
        for bundle_id in orphans:
            self._artifacts.discard(bundle_id)

    # --- start -------------------------------------------------------------------------------------------------------

    def _start_embedded(self) -> None:
        inventory = take_inventory()
        node_id = socket.gethostname()
        devices = inventory.devices(node_id, self._devices)
        require_gang(self._devices_per_trial, len(devices))
        # The preload and Ray's own start are the two long waits; they go on side by side, the actor joins them.
        self._early = ForkserverProcess(self._forkserver_spec(node_id, inventory))
        self._ray_folder = start_ray(inventory, len(devices))
        (node,) = ray.nodes()
        self._take({node_id: (node, len(devices))}, inventory.kind, self._early.address)

    def _join(self) -> None:
        if not ray.is_initialized():
            self._check_address()
            try:
                ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, ValueError, RuntimeError) as error:
                raise _no_answer(self._address, error) from error
            self._joined = True
        alive = [node for node in ray.nodes() if node["Alive"]]
        kind = DeviceKind.CUDA if any(node["Resources"].get("GPU", 0) >= 1 for node in alive) else DeviceKind.CPU
        resource = "GPU" if kind is DeviceKind.CUDA else "CPU"
        found = {_node_name(node, alive): (node, int(node["Resources"].get(resource, 0))) for node in alive}
        total = sum(count for _, count in found.values())
        require_devices(self._devices, total, kind)
        left = self._devices or total
        chosen = {}
        for node_id in sorted(found):
            node, count = found[node_id]
            if min(count, left) > 0:
                chosen[node_id] = (node, min(count, left))
                left -= min(count, left)
        require_gang(self._devices_per_trial, max(count for _, count in chosen.values()))
        self._take(chosen, kind, "")

    def _check_address(self) -> None:
        try:
            _check_reachable(self._address)
        except OSError as error:
            raise _no_answer(self._address, error) from error

    def _take(self, chosen: dict[str, tuple[dict[str, Any], int]], kind: DeviceKind, forkserver_address: str) -> None:
        """Reserve and start an agent on every chosen node, all at the same time, then wait for all of them."""
        deadline = time.monotonic() + self._start_timeout_s
        for node_id, (ray_node, count) in chosen.items():
            cpus = count if kind is DeviceKind.CPU else min(count, int(ray_node["Resources"].get("CPU", 0)))
            gpus = count if kind is DeviceKind.CUDA else 0
            bundle = {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
            group = placement_group([bundle], bundle_label_selector=[{"ray.io/node-id": ray_node["NodeID"]}])
            actor = AgentActor.options(  # type: ignore[attr-defined]
                num_cpus=cpus,
                num_gpus=gpus,
                max_restarts=_AGENT_RESTARTS,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0),
            ).remote(
                node_id,
                count,
                str(self._home),
                str(self._artifacts.root),
                self._preload,
                self._python_path,
                self._stop_grace_s,
                forkserver_address,
            )
            self._nodes[node_id] = _Node(node_id, group, actor)
        self._wait_ready(deadline)
        for node in self._nodes.values():
            node.thread = threading.Thread(target=self._listen, args=(node,), name=f"poll-{node.node_id}", daemon=True)
            node.thread.start()

    def _wait_ready(self, deadline: float) -> None:
        waiting = [n.actor.wait_ready.remote(deadline - time.monotonic()) for n in self._nodes.values()]
        try:
            ray.get(waiting, timeout=max(0.0, deadline - time.monotonic()))
        except GetTimeoutError:
            raise ClusterUnavailable(
                f"cluster.devices={self._devices}: the devices were not free within {self._start_timeout_s:g} s; ask "
                "for fewer, or wait for whoever holds them"
            ) from None
        except ClusterUnavailable as error:
            # Ray raises a subclass whose text holds the remote traceback; the cause is what the agent said.
            raise ClusterUnavailable(str(getattr(error, "cause", error))) from None
        except RayActorError as error:
            cause = getattr(error, "cause", None) or error
            raise ClusterUnavailable(f"an agent did not start: {cause}") from error

    def _forkserver_spec(self, node_id: str, inventory: Inventory) -> ForkserverSpec:
        return ForkserverSpec(
            preload=self._preload,
            python_path=self._python_path,
            device_kind=inventory.kind,
            log=self._home / "logs" / f"forkserver-{node_id}.log",
        )

    # --- one thread per node -----------------------------------------------------------------------------------------

    def _listen(self, node: _Node) -> None:
        while not self._closing:
            try:
                events = ray.get(node.actor.poll.remote(_POLL_S))
            except RayError as error:
                if self._closing:
                    return
                self._node_lost(node, str(error).splitlines()[0])
                if isinstance(error, ActorDiedError):
                    return
                time.sleep(_RESTART_POLL_S)  # Ray is restarting it; the node joins again once it has preloaded
                continue
            if not events:
                continue
            with self._lock:
                for event in events:
                    if isinstance(event, _TERMINAL):
                        node.bundles.discard(event.bundle_id)
                        self._bundle_nodes.pop(event.bundle_id, None)
                    elif isinstance(event, NodeLost | NodeJoined):
                        node.lost = isinstance(event, NodeLost)
            self._batches.put(events)

    def _node_lost(self, node: _Node, reason: str) -> None:
        """The agent is dead, and with it (its forkserver sees the end of the stream) every bundle of the node."""
        with self._lock:
            if node.lost:
                return
            node.lost = True
            bundles, node.bundles = sorted(node.bundles), set()
            for bundle_id in bundles:
                self._bundle_nodes.pop(bundle_id, None)
            # What they were writing is removed by `close`: their processes may live for another moment.
            self._orphans += bundles
        at = time.time()
        lost: list[Event] = [WorkerLost(at=at, bundle_id=b, reason=f"node lost: {reason}") for b in bundles]
        self._batches.put([*lost, NodeLost(at=at, node_id=node.node_id, reason=reason)])


def _no_answer(address: str, error: Exception) -> ClusterUnavailable:
    return ClusterUnavailable(
        f"cluster.address={address!r}: no Ray cluster answers there ({error}); start one with `ray start --head`, or "
        "leave the address empty for one on this machine"
    )


def _check_reachable(address: str) -> None:
    """Raises OSError if nobody listens at `host:port`: Ray itself would try, and complain aloud, for two minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()


def _node_name(node: dict[str, Any], nodes: Sequence[dict[str, Any]]) -> str:
    """The host's name, with a part of Ray's id where several nodes run on one host."""
    name = str(node["NodeManagerHostname"])
    alone = sum(other["NodeManagerHostname"] == name for other in nodes) == 1
    return name if alone else f"{name}-{node['NodeID'][:6]}"
