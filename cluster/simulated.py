"""A cluster without machines: deterministic, in virtual time. The loop can't tell it from a real one.

It is its own clock. Time passes in `poll` only: to the next thing that happens if that is within the timeout, else by
the timeout. Nothing happens in between, so a simulated day costs what its events cost. Work may come out of it too:
`arrivals` are events of people, and are asked for one after the other, when their time has come.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from cluster.script import Run, Script, Step
from orchestrator.events import (
    BundleStarted,
    BundleStopped,
    Event,
    Launch,
    MemoryExceeded,
    NodeJoined,
    NodeLost,
    StageCompleted,
    StageRaised,
    StageReported,
    StageSaved,
    WorkerLost,
)
from orchestrator.schema import Device, Node, Outcome, Stage

__all__ = ["Arrival", "Script", "SimulatedCluster", "Slowdown"]

# When something happens [seconds since the epoch], and what it is once it does.
Arrival = tuple[float, Callable[[], Sequence[Event]]]
# How many times longer than alone a launch takes beside the others on its devices.
Slowdown = Callable[[Launch, Sequence[Launch]], float]

# A launch of which only the duration is known makes so many reports, more or less, at most.
_REPORTS = 24
_NO_SERIES: Mapping[str, float] = {}
_Happening = tuple[float, int, Run | None, Callable[[], list[Event]] | None]


class SimulatedCluster:
    """`ports.Cluster` and `ports.Clock` in virtual time. Ties happen in the order they were set up, arrivals last."""

    def __init__(
        self,
        *,
        script: Callable[[Launch], Script | float],
        devices: Sequence[Device] = (),
        nodes: Sequence[Node] = (),
        startup_s: float = 0.0,
        start_at: float = 0.0,
        arrivals: Iterable[Arrival] = (),
        slowdown: Slowdown | None = None,
        announce_starts: bool = True,
        keeps: Callable[[Stage], bool] = lambda stage: True,
        report_every_s: float = 0.0,
    ) -> None:
        """`nodes`, or `devices` on nodes that have a core and as much memory for each. `script` says what a launch will
        do, or just how long its stage takes [s], asked once per launch. `startup_s`: from launch to start. `start_at`:
        what the clock shows first [seconds since the epoch]. `arrivals`: by time; each is taken from there no sooner
        than the one before it has happened. `slowdown`: see `Slowdown`; asked whenever who sits on the devices of a run
        changes. `announce_starts`: tell when a bundle has started. `keeps`: whose output and checkpoint stay once the
        stage is completed. `report_every_s`: how often a launch of which only the duration is known says how far it has
        come, by its pace alone [s]; 0 is never."""
        self._nodes_there_are = {node.node_id: node for node in (*nodes, *_nodes_of(devices))}
        self._script = script
        self._startup_s = startup_s
        self._now = start_at
        self._arrivals = iter(arrivals)
        self._next_arrival: Arrival | None = None
        self._slowdown = slowdown
        self._announce_starts = announce_starts
        self._keeps = keeps
        self._report_every_s = report_every_s
        self._order = itertools.count()
        self._agenda: list[_Happening] = []
        self._runs: dict[str, Run] = {}
        self._sitting: dict[str, dict[str, Run]] = {}
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
        for node_id in self._nodes_there_are:
            self.join_node(node_id, self._now)

    def join_node(self, node_id: str, at: float) -> None:
        """Have a node (back) with its devices at `at` [seconds since the epoch]."""
        node = self._nodes_there_are[node_id]

        def join() -> list[Event]:
            self._nodes.add(node_id)
            cpus, memory_bytes = node.cpus, node.host_memory_bytes
            return [
                NodeJoined(
                    at=self._now, node_id=node_id, devices=node.devices, cpus=cpus, host_memory_bytes=memory_bytes
                )
            ]

        self._at(at, join)

    def lose_node(self, node_id: str, at: float, reason: str) -> None:
        """Have a node and every bundle on it gone at `at` [seconds since the epoch]."""

        def lose() -> list[Event]:
            self._nodes.discard(node_id)
            gone = [b for b, run in self._runs.items() if node_id in _nodes_under(run.launch)]
            why = f"node lost: {reason}"
            lost = [self._end(b, WorkerLost(at=self._now, bundle_id=b, reason=why, blameless=True)) for b in gone]
            return [*lost, NodeLost(at=self._now, node_id=node_id, reason=reason)]

        self._at(at, lose)

    def launch(self, launch: Launch) -> None:
        """See `ports.Cluster`."""
        bundle_id, stage = launch.bundle_id, launch.stage
        told = self._script(launch)
        script = told if isinstance(told, Script) else Script(duration_s=told, reports=self._reports(stage, told))
        first_step = self._checkpoints.get((launch.study_id, stage.key), stage.warm_step)
        started_at = self._now + self._startup_s
        run = Run(launch, script, first_step, started_at, script.duration_s / stage.budget_steps, started_at)
        self._runs[bundle_id] = run
        if not self._nodes.issuperset(_nodes_under(launch)):
            reason = f"node {', '.join(sorted(_nodes_under(launch) - self._nodes))} is gone"
            run.plan = [(first_step, lambda: self._end(bundle_id, self._lost(run, reason, blameless=True)))]
            run.at = self._now
        else:
            run.plan = self._plan(run)
        self._go_on(run)
        if self._slowdown is not None:
            self._sit_down(run)

    def stop(self, bundle_id: str, reason: str) -> None:
        """See `ports.Cluster`; the bundle leaves a checkpoint of the step boundary that it stops at."""
        run = self._runs.get(bundle_id)
        if run is None or bundle_id in self._stopping:
            return
        self._stopping.add(bundle_id)
        done = max(0.0, self._now - run.at) / run.step_s if run.step_s > 0 else 0.0
        # The first boundary that is not in the past, whatever rounding makes of the quotient.
        step = int(run.step + done)
        while run.time_of(step) < self._now:
            step += 1

        def end() -> Event:
            self._checkpoints[_checkpoint_of(run.launch)] = step
            busy_s = max(0.0, self._now - run.started_at)
            return self._end(bundle_id, BundleStopped(at=self._now, bundle_id=bundle_id, busy_s=busy_s))

        run.plan = [item for item in run.plan if item[0] <= step]
        run.plan.append((step, end))
        self._go_on(run)

    def poll(self, timeout_s: float) -> list[Event]:
        """See `ports.Cluster`; returns what happens at one instant and moves the clock there."""
        at = self._next_at()
        if math.isinf(at) or at > self._now + timeout_s:
            self._now += timeout_s if math.isfinite(timeout_s) else 0.0
            return []
        self._now = max(self._now, at)
        events: list[Event] = []
        while self._next_at() <= self._now:
            if self._agenda and self._agenda[0][0] <= self._now:
                _, _, run, happening = heapq.heappop(self._agenda)
                events += happening() if happening is not None else [self._do(run)] if run is not None else []
            elif self._next_arrival is not None:
                arrival, self._next_arrival = self._next_arrival, None
                events += arrival[1]()
        return events

    def idle(self) -> bool:
        """Whether nothing will ever happen unless something is launched."""
        return math.isinf(self._next_at())

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
        self._sitting.clear()
        self._stopping.clear()
        self._nodes.clear()

    # --- the agenda --------------------------------------------------------------------------------------------------

    def _at(self, at: float, happening: Callable[[], list[Event]]) -> None:
        heapq.heappush(self._agenda, (at, next(self._order), None, happening))

    def _next_at(self) -> float:
        """When the next thing happens; infinite if nothing will. What ended bundles, or bundles whose pace has changed,
        would have done is forgotten first: it must not move the clock."""
        while self._agenda and (run := self._agenda[0][2]) is not None and run.entry != self._agenda[0][1]:
            heapq.heappop(self._agenda)
        at = self._agenda[0][0] if self._agenda else math.inf
        if self._next_arrival is None:
            self._next_arrival = next(self._arrivals, None)
        return at if self._next_arrival is None else min(at, self._next_arrival[0])

    def _go_on(self, run: Run) -> None:
        """Put what the run does next on the agenda, in place of what is there for it."""
        run.entry = next(self._order)
        at = run.time_of(run.plan[0][0])
        if not math.isinf(at):
            heapq.heappush(self._agenda, (at, run.entry, run, None))

    def _do(self, run: Run) -> Event:
        """Have the first item of the run's plan happen."""
        _, happening = run.plan.pop(0)
        event = happening()
        if run.plan:
            self._go_on(run)
        return event

    # --- runs --------------------------------------------------------------------------------------------------------

    def _plan(self, run: Run) -> list[Step]:
        """What a run will do from where it is on."""
        script, last_step = run.script, run.last_step
        plan: list[Step] = []
        if self._announce_starts:
            bundle_id = run.launch.bundle_id
            plan.append((run.step, lambda: BundleStarted(at=self._now, bundle_id=bundle_id)))
        for step in sorted({*script.reports, *script.saves}):
            if step in script.reports and run.step <= step <= last_step:
                plan.append((step, self._reporting(run, step)))
            if step in script.saves and run.step < step <= last_step:
                plan.append((step, self._saving(run, step)))
        plan.append((last_step, lambda: self._finish(run)))
        return plan

    def _reports(self, stage: Stage, duration_s: float) -> Mapping[int, Mapping[str, float]]:
        """Reports of no series, so many steps apart that the time between them is right for a run that is alone."""
        if not self._report_every_s or not math.isfinite(duration_s):
            return {}
        steps = self._report_every_s * stage.budget_steps / max(duration_s, 1e-9)
        apart = max(1, round(steps), stage.budget_steps // _REPORTS)
        return dict.fromkeys(range(0, stage.budget_steps + 1, apart), _NO_SERIES)

    def _reporting(self, run: Run, step: int) -> Callable[[], Event]:
        return lambda: StageReported(
            at=self._now,
            bundle_id=run.launch.bundle_id,
            step=step,
            metrics=run.script.reports[step],
            progress=step / run.launch.stage.budget_steps,
        )

    def _saving(self, run: Run, step: int) -> Callable[[], Event]:
        def save() -> Event:
            self._checkpoints[_checkpoint_of(run.launch)] = step
            return StageSaved(at=self._now, bundle_id=run.launch.bundle_id, step=step)

        return save

    def _finish(self, run: Run) -> Event:
        bundle_id, script, stage = run.launch.bundle_id, run.script, run.launch.stage
        if script.loses:
            return self._end(bundle_id, self._lost(run, script.loses))
        if run.exceeds:
            used, limit = script.needs_bytes, run.launch.placement.memory_bytes
            exceeded = MemoryExceeded(at=self._now, bundle_id=bundle_id, used_bytes=used, limit_bytes=limit)
            return self._end(bundle_id, exceeded)
        if script.raises:
            return self._end(bundle_id, StageRaised(at=self._now, bundle_id=bundle_id, error=script.raises))
        if self._keeps(stage):
            self._outputs.add(stage.key)
            self._checkpoints[_checkpoint_of(run.launch)] = stage.budget_steps
        else:
            self._checkpoints.pop(_checkpoint_of(run.launch), None)
        outcome = Outcome(
            metrics=script.outcome.metrics,
            busy_s=self._now - run.started_at,
            peak_memory_bytes=script.outcome.peak_memory_bytes,
        )
        return self._end(bundle_id, StageCompleted(at=self._now, bundle_id=bundle_id, outcome=outcome))

    def _lost(self, run: Run, reason: str, *, blameless: bool = False) -> WorkerLost:
        return WorkerLost(at=self._now, bundle_id=run.launch.bundle_id, reason=reason, blameless=blameless)

    def _end(self, bundle_id: str, event: Event) -> Event:
        run = self._runs.pop(bundle_id)
        run.entry = -1
        run.plan = []
        self._stopping.discard(bundle_id)
        if self._slowdown is not None:
            self._get_up(run)
        return event

    # --- who slows whom down -----------------------------------------------------------------------------------------

    def _sit_down(self, run: Run) -> None:
        for device_id in run.launch.placement.device_ids:
            self._sitting.setdefault(device_id, {})[run.launch.bundle_id] = run
        self._set_pace(run)
        for other in self._neighbours(run):
            self._set_pace(other)

    def _get_up(self, run: Run) -> None:
        neighbours = self._neighbours(run)
        for device_id in run.launch.placement.device_ids:
            self._sitting.get(device_id, {}).pop(run.launch.bundle_id, None)
        for other in neighbours:
            self._set_pace(other)

    def _neighbours(self, run: Run) -> list[Run]:
        on_devices = (self._sitting.get(device_id, {}) for device_id in run.launch.placement.device_ids)
        found = {bundle_id: other for sitting in on_devices for bundle_id, other in sitting.items()}
        found.pop(run.launch.bundle_id, None)
        return list(found.values())

    def _set_pace(self, run: Run) -> None:
        """From now on the run takes as long for a step as its neighbours let it."""
        assert self._slowdown is not None
        factor = self._slowdown(run.launch, [other.launch for other in self._neighbours(run)])
        step_s = factor * run.script.duration_s / run.launch.stage.budget_steps
        if step_s == run.step_s:
            return
        if self._now > run.at:
            run.step, run.at = run.step + (self._now - run.at) / run.step_s, self._now
        run.step_s = step_s
        self._go_on(run)


def _nodes_of(devices: Sequence[Device]) -> list[Node]:
    """The nodes that devices say they are on, with a core and as much memory for each of them."""
    by_node: dict[str, list[Device]] = {}
    for device in devices:
        by_node.setdefault(device.node_id, []).append(device)
    return [
        Node(
            node_id=node_id,
            devices=tuple(own),
            cpus=float(len(own)),
            host_memory_bytes=sum(device.memory_bytes for device in own),
        )
        for node_id, own in by_node.items()
    ]


def _nodes_under(launch: Launch) -> set[str]:
    """The nodes that a launch touches."""
    return {*launch.placement.node_ids, *(device.node_id for device in launch.devices)}


def _checkpoint_of(launch: Launch) -> tuple[str, str]:
    return launch.study_id, launch.stage.key
