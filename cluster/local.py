"""In-process and debuggable: each bundle runs in the thread that calls `poll`, so a breakpoint in a stage just works.

Nothing isolates a bundle here: one that crashes the interpreter takes the driver along, and no limit is enforced but
what the allocators refuse.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

from cluster.agent_config import AgentConfig
from cluster.assignments import seats
from cluster.inventory import take_inventory
from cluster.memory import refused
from cluster.outputs import Artifacts
from cluster.worker import describe_failure, resolve
from orchestrator.events import (
    BundleStarted,
    BundleStopped,
    Event,
    Launch,
    MemoryExceeded,
    StageCompleted,
    StageRaised,
    StageReported,
    StageSaved,
)
from orchestrator.ports import ClusterUnavailable
from orchestrator.schema import Assignment, Outcome

NODE_ID = "local"


class LocalCluster:
    """`ports.Cluster` in the calling process. Bundles run one after another, in the order they were launched."""

    def __init__(
        self,
        *,
        home: Path,
        artifacts: Path,
        devices: int = 1,
        devices_per_trial: int = 1,
        owner: str = "",
        term: int = 0,
    ) -> None:
        """`devices`: how many the node claims to have (0: all there are); bundles run one at a time all the same.
        `devices_per_trial`: 1, since there is one process. `owner` and `term` are what other clusters fence leaders by;
        here a bundle lives and dies with its leader. `home` is not written to: what a stage prints goes to the
        terminal."""
        self._home = home.absolute()
        self._artifacts = Artifacts(artifacts.absolute())
        self._devices = devices
        self._devices_per_trial = devices_per_trial
        self._cores: tuple[int, ...] = ()
        self._events: list[Event] = []
        self._launches: deque[Launch] = deque()
        self._current = ""
        self._stops: set[str] = set()

    def check(self) -> None:
        """See `ports.Cluster`."""
        if self._devices_per_trial != 1:
            raise ClusterUnavailable(
                f"cluster.devices_per_trial={self._devices_per_trial}: cluster=local runs one process per bundle; "
                "choose 1, or another cluster"
            )
        take_inventory().devices(NODE_ID, self._devices)

    def start(self) -> None:
        """See `ports.Cluster`. Raises ClusterUnavailable."""
        self.check()
        inventory = take_inventory()
        self._cores = inventory.cores
        config = AgentConfig.of_node(NODE_ID, inventory, self._devices, home=self._home, artifacts=self._artifacts.root)
        self._events.append(config.joined(time.time()))

    def launch(self, launch: Launch) -> None:
        """See `ports.Cluster`; the bundle starts at a later `poll`."""
        self._launches.append(launch)

    def stop(self, bundle_id: str, reason: str) -> None:
        """See `ports.Cluster`. Reaches a running bundle from another thread, a debugger or a signal handler only."""
        if bundle_id == self._current or any(launch.bundle_id == bundle_id for launch in self._launches):
            self._stops.add(bundle_id)

    def poll(self, timeout_s: float) -> list[Event]:
        """Runs one bundle to its end, if one waits, and returns all its events; `timeout_s` is for the idle case."""
        if not self._events and self._launches:
            self._run(self._launches.popleft())
        elif not self._events:
            time.sleep(timeout_s)
        events, self._events = self._events, []
        return events

    def available_outputs(self, stage_keys: Sequence[str]) -> set[str]:
        """See `ports.Cluster`."""
        return self._artifacts.available(stage_keys)

    def keep_checkpoint(self, study_id: str, stage_key: str) -> tuple[str, int] | None:
        """See `ports.Cluster`."""
        return self._artifacts.keep(study_id, stage_key)

    def close(self) -> None:
        """See `ports.Cluster`."""
        self._launches.clear()
        self._events.clear()

    def _run(self, launch: Launch) -> None:
        self._current = launch.bundle_id
        try:
            self._events.append(self._run_stage(launch))
        except Exception as error:  # the stage's own; an interrupt is for whoever sits at the debugger
            self._events.append(self._ended_by(error, launch))
        finally:
            self._artifacts.discard(launch.bundle_id)
            self._stops.discard(launch.bundle_id)
            self._current = ""

    def _ended_by(self, error: Exception, launch: Launch) -> Event:
        at, bundle_id, given = time.time(), launch.bundle_id, launch.placement
        excess = refused(error, launch.devices[0].kind, given.memory_bytes, given.host_memory_bytes)
        if excess is not None:
            return MemoryExceeded(at=at, bundle_id=bundle_id, **asdict(excess))
        return StageRaised(at=at, bundle_id=bundle_id, error=describe_failure(error))

    def _run_stage(self, launch: Launch) -> Event:
        bundle_id, key = launch.bundle_id, launch.stage.key
        if len(launch.devices) > 1:
            raise ValueError(
                f"cluster.devices_per_trial={len(launch.devices)}: cluster=local runs one process per bundle; "
                "choose 1, or another cluster"
            )
        self._artifacts.prepare(bundle_id, launch.study_id, key)
        (seat,) = seats(launch, self._artifacts, self._cores, len(self._cores))
        self._events.append(BundleStarted(at=time.time(), bundle_id=bundle_id))
        outcome = self._call(seat.assignment)
        if not outcome.finished:
            if bundle_id not in self._stops:
                raise ValueError("the stage returned finished=False although nobody asked it to stop")
            return BundleStopped(at=time.time(), bundle_id=bundle_id, busy_s=outcome.busy_s)
        outcome = self._artifacts.commit(bundle_id, key, outcome)
        return StageCompleted(at=time.time(), bundle_id=bundle_id, outcome=outcome)

    def _call(self, assignment: Assignment) -> Outcome:
        channel = _LocalChannel(assignment.bundle_id, self._events, self._stops)
        outcome = resolve(assignment.stage.entrypoint)(assignment, channel)
        if not isinstance(outcome, Outcome):
            raise TypeError(f"{assignment.stage.entrypoint} returned {type(outcome).__name__} instead of an Outcome")
        return replace(outcome, metrics={name: float(value) for name, value in outcome.metrics.items()})


class _LocalChannel:
    """Writes straight into the cluster's events."""

    def __init__(self, bundle_id: str, events: list[Event], stops: set[str]) -> None:
        self._bundle_id = bundle_id
        self._events = events
        self._stops = stops

    def report(self, step: int, metrics: Mapping[str, float], progress: float) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        self._events.append(
            StageReported(
                at=time.time(), bundle_id=self._bundle_id, step=int(step), metrics=values, progress=float(progress)
            )
        )

    def saved(self, step: int) -> None:
        self._events.append(StageSaved(at=time.time(), bundle_id=self._bundle_id, step=int(step)))

    def measured(self, memory_bytes: int, host_memory_bytes: int, utilisation: float | None) -> None:
        """Not told: in a process that others share nobody can say what of it is the stage's."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """At once: nobody else runs."""
        return nullcontext()

    def stop_requested(self) -> bool:
        return self._bundle_id in self._stops
