"""One simulated run: the real scheduling loop over a simulated cluster, in virtual time, with a recorder for a store.

Nothing here decides: the loop, its state machine and its policies do, as they do live. Time jumps from one thing that
happens to the next; in between, the loop is asked again only where an answer depends on the time that has passed: when
a request becomes overdue, and when a bundle becomes old enough to be preempted.
"""

import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from orchestrator.config import ConfigError
from orchestrator.dotted import resolve
from orchestrator.events import StudyFinished
from orchestrator.interference import Interference, Rules
from orchestrator.loop import SchedulingLoop
from orchestrator.packing.fragments import Fragments, Left, typical
from orchestrator.packing.optimal import Unsolved
from orchestrator.ports import Clock, Cluster
from orchestrator.schema import Allocation, Node, Prediction, Stage, Study, Trace, Trial
from orchestrator.service.rooms import build_policies
from orchestrator.simulation.company import Company
from orchestrator.simulation.protocols import PROTOCOLS, Scene
from orchestrator.simulation.recorder import Recorder
from orchestrator.simulation.results import Result, measures
from orchestrator.simulation.submissions import KnownDurations, Submissions, Survey, TracedStage, survey_of
from orchestrator.simulation.traces import read_workload
from orchestrator.snapshot import Arrivals

# Nodes join this long before the first trial is submitted.
_EARLIER_S = 1.0
# A policy that says "longer than" is asked a moment later.
_MOMENT_S = 1e-3
# How often the fragmentation is measured while trials arrive.
_SAMPLES = 32
# A run makes millions of objects and little garbage that refers to itself.
_GC_THRESHOLDS = (200_000, 50, 50)


class VirtualCluster(Cluster, Clock, Protocol):
    """What a simulation runs on: `cluster.simulated:SimulatedCluster`."""

    def idle(self) -> bool:
        """Whether nothing will ever happen unless something is launched."""


def simulate(
    config: Mapping[str, Any], *, swept: Mapping[str, str] | None = None, skip_bad_rows: bool = False
) -> Result:
    """Run a resolved simulation config to its end. `swept` are the values that tell it from other runs.

    Raises ConfigError and TraceError as `traces.read_workload` does, and ConfigError for a policy that gives up.
    """
    config = _with_company(config)
    workload = read_workload(config, skip_bad_rows=skip_bad_rows)
    began = time.perf_counter()
    with _rare_garbage_collection():
        run = Simulation(config, workload.trace, workload.nodes, survey=workload.survey)
        try:
            run.to_the_end()
        except Unsolved as error:
            packing = config["packing"]["name"]
            raise ConfigError("packing", packing, str(error).removeprefix(f"packing={packing}: ")) from error
        return run.result(swept or {}, began)


class Simulation:
    """A trace on nodes, under the policies of a resolved simulation config. recorder: one that keeps more than sums."""

    def __init__(
        self,
        config: Mapping[str, Any],
        trace: Trace,
        nodes: Sequence[Node],
        recorder: Recorder | None = None,
        survey: Survey | None = None,
    ) -> None:
        self._config = config
        self._trace = trace
        self._survey = survey or survey_of(trace.trials)
        self._interferes = bool(config["interference"]["slowdowns"])
        self.recorder = Recorder() if recorder is None else recorder
        scene = Scene(
            trace=trace,
            seed=config["seed"],
            window=config["trace"]["window"],
            capacity=sum(len(node.devices) for node in nodes),
            recorder=self.recorder,
            submissions=Submissions(
                knows=lambda study_id: study_id in self.loop.state.studies,
                available=lambda keys: self.cluster.available_outputs(keys),
                step_s=config["interference"]["step_s"] if self._interferes else 0.0,
            ),
        )
        self._protocol = PROTOCOLS[config["trace"]["protocol"]](scene)
        self.cluster = self._cluster(nodes)
        numbers = itertools.count()
        self.loop = SchedulingLoop(
            cluster=self.cluster,
            store=self.recorder,
            clock=self.cluster,
            policies=build_policies(_with_hold(config)),
            max_attempts=config["cluster"]["max_attempts"],
            finish=_no_report,
            forecasts=False,
            new_bundle_id=lambda: f"{next(numbers):012d}",
        )
        known = config["trace"]["known_demands"]
        if self._protocol.knows_demands if known is None else known:
            self.loop.state.arrivals = Arrivals(known=self._survey.demands)
        if config["durations"] == "known":
            self.loop.state.durations = KnownDurations()
        if self._interferes:
            every_s = float(config["interference"]["report_every_s"])
            self.loop.state.interference = Interference(Rules(slice_s=every_s / 2, judge_every_s=every_s))
        self._overdue_after_s = float(config["ordering"]["max_wait_s"])
        groups = (config[group] for group in ("preemption", "defragmentation"))
        holds_s = (float(group["min_hold_s"]) for group in groups if group["name"] != "never")
        self._preemptible_after_s = min(holds_s, default=math.inf)
        self._sample_at, self._sample_every_s = self._sampling()
        self._samples: list[float] = []

    def _cluster(self, nodes: Sequence[Node]) -> VirtualCluster:
        config, protocol = self._config["cluster"], self._protocol
        implementation = resolve(config["implementation"], "cluster.implementation")
        built: VirtualCluster = implementation(
            nodes=nodes,
            script=lambda launch: protocol.duration_s(launch.stage),
            arrivals=protocol.arrivals(),
            startup_s=config["startup_s"],
            start_at=self._survey.first_at - _EARLIER_S if protocol.timed else -_EARLIER_S,
            slowdown=self._slowdown(),
            report_every_s=self._config["interference"]["report_every_s"] if self._interferes else 0.0,
            announce_starts=False,
            keeps=_is_shared,
        )
        return built

    def _slowdown(self) -> Callable[..., float] | None:
        named = self._config["cluster"]["slowdown"]
        if named:
            found: Callable[..., float] = resolve(named, "cluster.slowdown")
            return found
        return Company(self._config["interference"]["slowdowns"]) if self._interferes else None

    # --- the run -----------------------------------------------------------------------------------------------------

    def to_the_end(self) -> None:
        """Until nothing happens any more."""
        self.cluster.start()
        self.loop.wait_for_devices(0.0)
        while True:
            starts, timeout_s = self.recorder.starts, self._patience_s()
            self.loop.cycle(timeout_s)
            if self.cluster.now() >= self._sample_at:
                self._sample()
            if self.cluster.idle() and self.recorder.starts == starts and math.isinf(timeout_s):
                break

    def _patience_s(self) -> float:
        """How long until time alone may change an answer [s]; infinite if it never will."""
        now, waiting = self.cluster.now(), self.recorder.waiting
        queued, opened = self.recorder.queued, self.recorder.opened
        while queued and (queued[0][1] not in waiting or queued[0][0] + self._overdue_after_s + _MOMENT_S <= now):
            queued.popleft()
        while opened and opened[0] + self._preemptible_after_s + _MOMENT_S <= now:
            opened.popleft()
        if math.isinf(self._preemptible_after_s):
            opened.clear()
        if not waiting:
            return math.inf
        overdue = queued[0][0] + self._overdue_after_s if queued else math.inf
        preemptible = opened[0] + self._preemptible_after_s if opened else math.inf
        return min(overdue, preemptible) + _MOMENT_S - now

    # --- what came of it ---------------------------------------------------------------------------------------------

    def result(self, swept: Mapping[str, str], began: float) -> Result:
        """`began`: when the simulation did, by `time.perf_counter`."""
        if not self._samples:
            self._sample()
        known: dict[str, Any] = {**self._protocol.results(), **measures(self.recorder, timed=self._protocol.timed)}
        return Result(
            policy=self._config["packing"]["name"],
            seed=self._config["seed"],
            overrides={key: value for key, value in swept.items() if key not in ("packing", "seed")},
            fragmentation=sum(self._samples) / len(self._samples),
            skipped_rows=self._trace.skipped_rows,
            wall_s=time.perf_counter() - began,
            **known,
        )

    def _sampling(self) -> tuple[float, float]:
        """When to measure the fragmentation first, and then how often [s]: while trials arrive, or only at the end."""
        first, last = self._survey.first_at, self._survey.last_at
        if not self._protocol.timed or last <= first:
            return math.inf, math.inf
        every_s = (last - first) / _SAMPLES
        return first + every_s, every_s

    def _sample(self) -> None:
        room = self.loop.state.room.now()
        fragments = Fragments(room, typical(self._survey.demands, 1.0))
        amount = float(fragments.amounts(Left.now(room, np.arange(len(room.nodes)))).sum())
        self._samples.append(amount / fragments.of_a_device / room.device_count)
        late_by = max(0.0, self.cluster.now() - self._sample_at) if math.isfinite(self._sample_at) else 0.0
        self._sample_at += self._sample_every_s * (1 + late_by // self._sample_every_s)
        if self._sample_at > self._survey.last_at + self._sample_every_s / 2:
            self._sample_at = math.inf


def _with_hold(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A policy that may leave requests waiting for better company may do so with a whole window but one."""
    packing = config["packing"]
    if packing.get("hold", 0) is not None:
        return config
    return {**config, "packing": {**packing, "hold": config["trace"]["window"] - 1}}


def _with_company(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A policy that may take free devices to have no company does so where somebody slows somebody down."""
    packing = config["packing"]
    if packing.get("apart", False) is not None:
        return config
    slowed = bool(config["interference"]["slowdowns"] or config["cluster"]["slowdown"])
    return {**config, "packing": {**packing, "apart": slowed}}


def _no_report(
    study: Study, trials: Sequence[Trial], ledger: Sequence[Allocation], predictions: Sequence[Prediction]
) -> StudyFinished:
    return StudyFinished(metrics={}, artifacts=())


def _is_shared(stage: Stage) -> bool:
    return isinstance(stage, TracedStage) and stage.shared


@contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
