"""A cluster without machines: deterministic, in virtual time. The loop can't tell it from a real one.

It is its own clock. Time passes in `poll` only: to the next thing that happens if that is within the timeout, else by
the timeout. Nothing happens in between, so a simulated day costs what its events cost.
"""

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.events import (
    BundleStarted,
    BundleStopped,
    Event,
    Launch,
    NodeJoined,
    NodeLost,
    StageCompleted,
    StageRaised,
    StageReported,
    StageSaved,
    WorkerLost,
)
from orchestrator.schema import Device, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What one launch will do.

    `duration_s` is for the whole stage, first step to last; an attempt that resumes takes its remaining part. `reports`
    are series values by step (0 to `Stage.budget_steps`). `saves` are the steps at which a checkpoint is written, from
    which the next attempt goes on. `outcome` is the answer of a completed run; its `busy_s` is replaced by the time the
    attempt ran. With `raises` (an error) or `loses` (a reason) the run ends so instead, once it has come to the
    fraction `ends_at` of the stage.
    """

    duration_s: float
    reports: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    saves: Sequence[int] = ()
    outcome: Outcome = field(default_factory=Outcome)
    raises: str = ""
    loses: str = ""
    ends_at: float = 1.0


@dataclass(slots=True)
class _Run:
    """A launched bundle that has not ended. It is at step `first_step` when it starts."""

    launch: Launch
    script: Script
    first_step: int
    started_at: float

    @property
    def step_s(self) -> float:
        return self.script.duration_s / self.launch.stage.budget_steps

    def time_of(self, step: float) -> float:
        """When the run comes to `step` [virtual seconds]."""
        return self.started_at + (step - self.first_step) * self.step_s


_Happening = tuple[float, int, str, Callable[[], list[Event]]]


class SimulatedCluster:
    """`ports.Cluster` and `ports.Clock` in virtual time. Ties happen in the order they were set up."""

    def __init__(
        self,
        *,
        devices: Sequence[Device],
        script: Callable[[Launch], Script],
        startup_s: float = 0.0,
        start_at: float = 0.0,
    ) -> None:
        """`script` says what a launch will do, asked once per launch. `startup_s`: from launch to start. `start_at`:
        what the clock shows first [seconds since the epoch]."""
        self._devices = tuple(devices)
        self._script = script
        self._startup_s = startup_s
        self._now = start_at
        self._order = itertools.count()
        self._agenda: list[_Happening] = []
        self._runs: dict[str, _Run] = {}
        self._stopping: set[str] = set()
        self._checkpoints: dict[tuple[str, str], int] = {}
        self._outputs: set[str] = set()
        self._nodes: set[str] = set()

    def now(self) -> float:
        """See `ports.Clock`."""
        return self._now

    def check(self) -> None:
        """See `ports.Cluster`: whatever it was given is there."""

    def start(self) -> None:
        """See `ports.Cluster`: every node joins at once."""
        for node_id in dict.fromkeys(device.node_id for device in self._devices):
            self.join_node(node_id, self._now)

    def join_node(self, node_id: str, at: float) -> None:
        """Have a node (back) with its devices at `at` [seconds since the epoch]."""
        devices = tuple(device for device in self._devices if device.node_id == node_id)

        def join() -> list[Event]:
            self._nodes.add(node_id)
            cpus, memory_bytes = float(len(devices)), sum(device.memory_bytes for device in devices)
            return [
                NodeJoined(at=self._now, node_id=node_id, devices=devices, cpus=cpus, host_memory_bytes=memory_bytes)
            ]

        self._at(at, "", join)

    def lose_node(self, node_id: str, at: float, reason: str) -> None:
        """Have a node and every bundle on it gone at `at` [seconds since the epoch]."""

        def lose() -> list[Event]:
            self._nodes.discard(node_id)
            gone = [b for b, run in self._runs.items() if run.launch.devices[0].node_id == node_id]
            lost = [self._end(b, WorkerLost(at=self._now, bundle_id=b, reason=f"node lost: {reason}")) for b in gone]
            return [*lost, NodeLost(at=self._now, node_id=node_id, reason=reason)]

        self._at(at, "", lose)

    def launch(self, launch: Launch) -> None:
        """See `ports.Cluster`."""
        bundle_id, node_id, steps = launch.bundle_id, launch.devices[0].node_id, launch.stage.budget_steps
        first_step = self._checkpoints.get(_checkpoint_of(launch), launch.stage.warm_step)
        run = _Run(launch, self._script(launch), first_step, self._now + self._startup_s)
        self._runs[bundle_id] = run
        if node_id not in self._nodes:
            gone = WorkerLost(at=self._now, bundle_id=bundle_id, reason=f"node {node_id} is gone")
            self._at(self._now, bundle_id, lambda: [self._end(bundle_id, gone)])
            return
        self._at(run.started_at, bundle_id, lambda: [BundleStarted(at=self._now, bundle_id=bundle_id)])
        last_step = run.script.ends_at * steps if run.script.raises or run.script.loses else steps
        for step in sorted({*run.script.reports, *run.script.saves}):
            if step in run.script.reports and first_step <= step <= last_step:
                self._at(run.time_of(step), bundle_id, self._reporting(run, step))
            if step in run.script.saves and first_step < step <= last_step:
                self._at(run.time_of(step), bundle_id, self._saving(run, step))
        self._at(max(run.started_at, run.time_of(last_step)), bundle_id, lambda: [self._finish(run)])

    def stop(self, bundle_id: str, reason: str) -> None:
        """See `ports.Cluster`; the bundle leaves a checkpoint of the step boundary that it stops at."""
        run = self._runs.get(bundle_id)
        if run is None or bundle_id in self._stopping:
            return
        self._stopping.add(bundle_id)
        done = max(0.0, self._now - run.started_at) / run.step_s if run.step_s > 0 else 0.0
        # The first boundary that is not in the past, whatever rounding makes of the quotient.
        step = run.first_step + int(done)
        while run.time_of(step) < self._now:
            step += 1

        def end() -> list[Event]:
            self._checkpoints[_checkpoint_of(run.launch)] = step
            busy_s = (step - run.first_step) * run.step_s
            return [self._end(bundle_id, BundleStopped(at=self._now, bundle_id=bundle_id, busy_s=busy_s))]

        self._at(max(run.started_at, run.time_of(step)), bundle_id, end)

    def poll(self, timeout_s: float) -> list[Event]:
        """See `ports.Cluster`; returns what happens at one instant and moves the clock there."""
        self._drop_cancelled()
        if not self._agenda or self._agenda[0][0] > self._now + timeout_s:
            self._now += timeout_s
            return []
        self._now = max(self._now, self._agenda[0][0])
        events: list[Event] = []
        while self._agenda and self._agenda[0][0] <= self._now:
            events += heapq.heappop(self._agenda)[3]()
            self._drop_cancelled()
        return events

    def available_outputs(self, stage_keys: Sequence[str]) -> set[str]:
        """See `ports.Cluster`."""
        return self._outputs.intersection(stage_keys)

    def damage_output(self, stage_key: str) -> None:
        """Have the output of a stage not verify any more."""
        self._outputs.discard(stage_key)

    def keep_checkpoint(self, study_id: str, stage_key: str) -> tuple[str, int] | None:
        """See `ports.Cluster`."""
        step = self._checkpoints.get((study_id, stage_key))
        return None if step is None else (f"{stage_key}-{step}-{study_id}", step)

    def close(self) -> None:
        """See `ports.Cluster`."""
        self._agenda.clear()
        self._runs.clear()
        self._stopping.clear()
        self._nodes.clear()

    def _at(self, at: float, bundle_id: str, happening: Callable[[], list[Event]]) -> None:
        heapq.heappush(self._agenda, (at, next(self._order), bundle_id, happening))

    def _drop_cancelled(self) -> None:
        """Forget what ended bundles would have done next: it must not move the clock."""
        while self._agenda and self._agenda[0][2] and self._agenda[0][2] not in self._runs:
            heapq.heappop(self._agenda)

    def _reporting(self, run: _Run, step: int) -> Callable[[], list[Event]]:
        return lambda: [
            StageReported(
                at=self._now,
                bundle_id=run.launch.bundle_id,
                step=step,
                metrics=run.script.reports[step],
                progress=step / run.launch.stage.budget_steps,
            )
        ]

    def _saving(self, run: _Run, step: int) -> Callable[[], list[Event]]:
        def save() -> list[Event]:
            self._checkpoints[_checkpoint_of(run.launch)] = step
            return [StageSaved(at=self._now, bundle_id=run.launch.bundle_id, step=step)]

        return save

    def _finish(self, run: _Run) -> Event:
        bundle_id, script, stage = run.launch.bundle_id, run.script, run.launch.stage
        if script.loses:
            return self._end(bundle_id, WorkerLost(at=self._now, bundle_id=bundle_id, reason=script.loses))
        if script.raises:
            return self._end(bundle_id, StageRaised(at=self._now, bundle_id=bundle_id, error=script.raises))
        self._outputs.add(stage.key)
        self._checkpoints[_checkpoint_of(run.launch)] = stage.budget_steps
        outcome = Outcome(
            metrics=script.outcome.metrics,
            busy_s=self._now - run.started_at,
            peak_memory_bytes=script.outcome.peak_memory_bytes,
        )
        return self._end(bundle_id, StageCompleted(at=self._now, bundle_id=bundle_id, outcome=outcome))

    def _end(self, bundle_id: str, event: Event) -> Event:
        del self._runs[bundle_id]
        self._stopping.discard(bundle_id)
        return event


def _checkpoint_of(launch: Launch) -> tuple[str, str]:
    return launch.study_id, launch.stage.key
