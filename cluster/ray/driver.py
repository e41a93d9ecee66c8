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

from cluster.agent_config import AgentConfig
from cluster.forkserver_client import ForkserverProcess
from cluster.inventory import require_gang, take_inventory
from cluster.outputs import Artifacts
from cluster.ray.actor import AgentActor
from cluster.ray.embedded import EmbeddedRay
from cluster.ray.head import HeadWatch, check_reachable, head_addresses, no_answer
from cluster.ray.nodes import choose_nodes
from cluster.ray.pulse import last_pulse, pulse_path
from cluster.ray.takeover import CLOSE_S, agent_name, end_agents, namespace_of, take_over
from orchestrator.events import BUNDLE_ENDS, Event, Launch, NodeJoined, NodeLost, StageRaised, WorkerLost
from orchestrator.ports import ClusterUnavailable
from orchestrator.schema import DeviceKind

_POLL_S = 10.0
_CLOSE_HEADLESS_S = 2.0
_RESTART_POLL_S = 0.2
_READY_CHECK_S = 1.0


@dataclass(slots=True)
class _Node:
    """A node whose devices we hold. `lost`: it runs nothing now. `gone`: nor will it ever again. `life`: of its agent,
    as last heard of."""

    node_id: str
    group: Any
    actor: Any
    bundles: set[str] = field(default_factory=set)
    lost: bool = False
    gone: bool = False
    life: str = ""
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
        owner: str = "",
        term: int = 0,
    ) -> None:
        """`home`: logs go to `home/logs`, one per bundle. `artifacts`: outputs, checkpoints and the cache; on several
        nodes both lie on a file system that they share.

        `devices`: how many to take (0: all there are). `devices_per_trial`: how many of them one node must have.
        `address`: a Ray cluster to join; "" starts one on this machine for the time of this object. `preload`: modules
        that the forkserver imports. `python_path`: folders that payloads are imported from besides the installed
        packages. `stop_grace_s`: how long a bundle may take to its next step boundary once asked to stop.
        `start_timeout_s`: how long `start` waits for devices and the preload. `owner` names the store whose leader of
        `term` this is: on a Ray cluster at an address it takes the place of that store's earlier leaders. With "" it
        takes nobody's place.
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
        self._owner = owner
        self._term = term
        self._lock = threading.Lock()
        self._batches: queue.SimpleQueue[list[Event]] = queue.SimpleQueue()
        self._nodes: dict[str, _Node] = {}
        self._bundle_nodes: dict[str, str] = {}
        self._orphans: list[str] = []
        self._early: ForkserverProcess | None = None
        self._embedded: EmbeddedRay | None = None
        self._joined = False
        self._closing = threading.Event()
        self._head: HeadWatch | None = None
        self._unavailable = ""

    def check(self) -> None:
        """See `ports.Cluster`. Of a cluster at an address it is only asked whether anybody answers."""
        if self._address:
            check_reachable(self._address)
        else:
            require_gang(self._devices_per_trial, len(take_inventory().devices("", self._devices)))

    def start(self) -> None:
        """Returns once bundles can be launched at once. Raises ClusterUnavailable; then nothing is left running."""
        self._closing = threading.Event()
        self._batches = queue.SimpleQueue()
        self._unavailable = ""
        try:
            if self._address:
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
            self._batches.put([WorkerLost(at=at, bundle_id=launch.bundle_id, reason=reason, blameless=True)])
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
            events += self._batches.get(block=timeout_s > 0, timeout=timeout_s)
            while True:
                events += self._batches.get_nowait()
        if not events and self._unavailable:
            raise ClusterUnavailable(self._unavailable)
        return events

    def available_outputs(self, stage_keys: Sequence[str]) -> set[str]:
        """See `ports.Cluster`."""
        return self._artifacts.available(stage_keys)

    def keep_checkpoint(self, study_id: str, stage_key: str) -> tuple[str, int] | None:
        """See `ports.Cluster`."""
        return self._artifacts.keep(study_id, stage_key)

    def close(self) -> None:
        """See `ports.Cluster`."""
        self._closing.set()
        head, self._head = self._head, None
        if head is not None:
            head.close()
        if ray.is_initialized():
            if head is not None and not self._unavailable and head.answers():
                self._give_back()
            else:  # whatever asks the head would wait for it until Ray ends this process
                self._end_agents()
        nodes, self._nodes = list(self._nodes.values()), {}
        self._bundle_nodes.clear()
        if self._early is not None:
            self._early.kill()
            self._early = None
        if self._embedded is not None:
            self._embedded.stop()
            self._embedded = None
        elif self._joined:
            ray.shutdown()
            self._joined = False
        for node in nodes:
            if node.thread is not None:
                node.thread.join(CLOSE_S)
        orphans, self._orphans = self._orphans, []
        for bundle_id in orphans:
            self._artifacts.discard(bundle_id)

    def _give_back(self) -> None:
        nodes = list(self._nodes.values())
        end_agents([node.actor for node in nodes if not node.lost], restart=False)
        for node in nodes:
            with contextlib.suppress(RayError, ValueError):
                if node.lost:
                    ray.kill(node.actor)
                remove_placement_group(node.group)

    def _end_agents(self) -> None:
        """End agents and bundles without the head: by force where they are ours, by a word to each agent elsewhere."""
        if self._embedded is not None:
            self._embedded.kill()
            return
        with contextlib.suppress(RayError):
            closing = [node.actor.close.remote() for node in self._nodes.values() if not node.lost]
            ray.get(closing, timeout=_CLOSE_HEADLESS_S)

    # --- start -------------------------------------------------------------------------------------------------------

    def _start_embedded(self) -> None:
        inventory = take_inventory()
        node_id = socket.gethostname()
        config = AgentConfig.of_node(
            node_id,
            inventory,
            self._devices,
            home=self._home,
            artifacts=self._artifacts.root,
            preload=self._preload,
            python_path=self._python_path,
        )
        count = len(config.devices)
        require_gang(self._devices_per_trial, count)
        # The preload and Ray's own start are the two long waits; they go on side by side, the actor joins them.
        self._early = ForkserverProcess(config.forkserver())
        self._embedded = EmbeddedRay(inventory, count)
        (node,) = ray.nodes()
        self._take({node_id: (node, count)}, inventory.kind, self._early.address)

    def _join(self) -> None:
        check_reachable(self._address)
        namespace = namespace_of(self._owner) if self._owner else None
        try:
            ray.init(address=self._address, namespace=namespace, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            raise no_answer(self._address, error) from error
        self._joined = True
        if namespace:
            take_over(namespace, self._term, self._start_timeout_s)
        chosen, kind = choose_nodes(ray.nodes(), self._devices, self._devices_per_trial)
        self._take(chosen, kind, "")

    def _take(self, chosen: dict[str, tuple[dict[str, Any], int]], kind: DeviceKind, forkserver_address: str) -> None:
        """Reserve and start an agent on every chosen node, all at the same time, then wait for all of them."""
        deadline = time.monotonic() + self._start_timeout_s
        self._head = HeadWatch(head_addresses(), self._head_lost)
        for node_id, (ray_node, count) in chosen.items():
            cpus = count if kind is DeviceKind.CPU else min(count, int(ray_node["Resources"].get("CPU", 0)))
            gpus = count if kind is DeviceKind.CUDA else 0
            bundle = {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
            name = agent_name(self._term, node_id) if self._owner else ""
            label = {"ray.io/node-id": ray_node["NodeID"]}
            group = placement_group([bundle], name=name, bundle_label_selector=[label])
            actor = AgentActor.options(  # type: ignore[attr-defined]
                num_cpus=cpus,
                num_gpus=gpus,
                name=name or None,
                max_restarts=-1,
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
            args = (node, self._closing, self._batches)
            node.thread = threading.Thread(target=self._listen, args=args, name=f"poll-{node.node_id}", daemon=True)
            node.thread.start()

    def _wait_ready(self, deadline: float) -> None:
        waiting = [n.actor.wait_ready.remote(deadline - time.monotonic()) for n in self._nodes.values()]
        try:
            while not _all_done(waiting):
                if self._unavailable:
                    raise ClusterUnavailable(self._unavailable)
                if time.monotonic() >= deadline:
                    raise ClusterUnavailable(
                        f"cluster.devices={self._devices}: the devices were not free within {self._start_timeout_s:g} "
                        "s; ask for fewer, or wait for whoever holds them"
                    )
        except ClusterUnavailable as error:
            # Ray raises a subclass whose text holds the remote traceback; the cause is what the agent said.
            raise ClusterUnavailable(str(getattr(error, "cause", error))) from None
        except RayActorError as error:
            cause = getattr(error, "cause", None) or error
            raise ClusterUnavailable(f"an agent did not start: {cause}") from error

    # --- one thread per node -----------------------------------------------------------------------------------------

    def _listen(self, node: _Node, closing: threading.Event, batches: queue.SimpleQueue[list[Event]]) -> None:
        """Carries an agent's events until the node is gone or `closing` is set."""
        out_of_reach = False
        while not closing.is_set():
            try:
                life, events = ray.get(node.actor.poll.remote(_POLL_S))
            except (RayError, SystemExit) as error:  # the latter in a thread that waits while Ray is shut down
                if closing.is_set():
                    return
                self._node_lost(node, str(error).splitlines()[0], last_pulse(pulse_path(self._home, node.life)))
                if isinstance(error, ActorDiedError):
                    self._node_gone(node)
                    return
                out_of_reach = True
                closing.wait(_RESTART_POLL_S)  # Ray is restarting it; the node joins again once it has preloaded
                continue
            if out_of_reach and life == node.life:
                # It has not ended, and must not go on with what was reported as lost: Ray starts it again.
                end_agents([node.actor], restart=True)
                continue
            out_of_reach, node.life = False, life
            with self._lock:
                events = [event for event in events if self._expected(node, event)]
            if events:
                batches.put(events)
            if any(isinstance(event, NodeLost) for event in events):  # the agent gave up
                self._node_gone(node)
                return

    def _expected(self, node: _Node, event: Event) -> bool:
        """Notes what an event says about its bundle or node. False for one of a bundle that was reported as lost."""
        if isinstance(event, NodeLost | NodeJoined):
            node.lost = isinstance(event, NodeLost)
            return True
        bundle_id = getattr(event, "bundle_id", "")
        known = bundle_id in node.bundles
        if isinstance(event, BUNDLE_ENDS):
            node.bundles.discard(bundle_id)
            self._bundle_nodes.pop(bundle_id, None)
        return known

    def _node_lost(self, node: _Node, reason: str, at: float | None = None) -> None:
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
        at = time.time() if at is None else at
        why = f"node lost: {reason}"
        lost: list[Event] = [WorkerLost(at=at, bundle_id=b, reason=why, blameless=True) for b in bundles]
        self._batches.put([*lost, NodeLost(at=at, node_id=node.node_id, reason=reason)])

    def _node_gone(self, node: _Node) -> None:
        """The node won't come back: a later leader took its devices, its machine is gone, or it can run nothing."""
        with self._lock:
            node.gone = True
            if all(other.gone for other in self._nodes.values()):
                self._unavailable = self._unavailable or "no node is left: every agent is gone for good"

    def _head_lost(self, reason: str, at: float) -> None:
        """Without its head Ray runs on for a minute, but can't place, restart or stop anything: end it all now."""
        self._end_agents()
        for node in list(self._nodes.values()):
            self._node_lost(node, reason, at)
        self._unavailable = reason


def _all_done(calls: Sequence[Any]) -> bool:
    """Waits a second at most. Raises what a call raised."""
    with contextlib.suppress(GetTimeoutError):
        ray.get(calls, timeout=_READY_CHECK_S)
        return True
    return False
