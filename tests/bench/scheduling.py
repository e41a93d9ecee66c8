"""What scheduling costs: one cycle over a full queue, and a large sweep from overrides to the queue.

    python -m tests.bench.scheduling [--queued 10000] [--devices 1000] [--variants 20000] [--repeats 5]

Cycles are `SchedulingLoop.cycle` with the real policies on a real SQLite store in a fresh folder, and a cluster that
does nothing. There is nothing to compare them with: what others call a cycle places one job, or keeps no durable queue.
The sweep is compared with what Hydra's own sweeper does for a job, `hydra.compose`, measured on a few jobs and
extrapolated. Times are wall times; CPU times are beside them, since a machine that others use shows in the former only.
"""

import argparse
import itertools
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose

from orchestrator.control.direct import DirectOperations
from orchestrator.events import (
    BundleStopped,
    Event,
    Launch,
    NodeJoined,
    RecordStudy,
    RecordTrial,
    StageReported,
    StudyFinished,
)
from orchestrator.forecast import forecast
from orchestrator.home import Home
from orchestrator.loop import PLACED_AT_ONCE, Policies, SchedulingLoop
from orchestrator.ordering import ORDERINGS, OrderingPolicy
from orchestrator.packing import BestFit
from orchestrator.schema import (
    Command,
    CommandKind,
    Device,
    DeviceKind,
    Holder,
    Request,
    Study,
    Tenant,
    Trial,
    Variant,
)
from orchestrator.sharing.preemption import PREEMPTIONS, Preemption, PreemptionPolicy
from orchestrator.snapshot import Snapshot
from orchestrator.store.database import DatabaseStore
from orchestrator.submission import Submission, prepare
from orchestrator.sweep import compose_study
from orchestrator.sweep.composing import hydra_session
from orchestrator.sweep.overrides import combinations, parse_overrides
from tests.bench.provenance import provenance

RECORD = Path(__file__).parent / "records" / "scheduling.json"
DEVICES_PER_NODE = 8
TENANTS = ("red", "green", "blue", "white")
REPORTS = 200
HYDRA_JOBS = 50
PREEMPTION = {"name": "least_lost", "max_preemptions": 3, "min_hold_s": 0.0}
SETTINGS: Mapping[str, Any] = {"max_wait_s": 1e9, "half_life_s": 86_400.0}

# One stage each, and a sweep of four kinds of it.
WORK = ("recipe=from_scratch", "algorithm=sft", "cluster.memory_per_trial_gib=1")
SWEEP = ("study=rl_vs_sft",)

Work = Sequence[Variant]

Measured = dict[str, list[dict[str, float]]]
"""The wall and CPU times of each repeat, by what was measured."""


class StillCluster:
    """A `ports.Cluster` whose bundles do nothing until they are told to stop, and then stop at once if `obedient`."""

    def __init__(self, devices: int) -> None:
        self.obedient = True
        self.running: dict[str, Launch] = {}
        self.coming: deque[Event] = deque()
        self._devices = devices
        self._asked: dict[str, str] = {}

    def start(self) -> None:
        for node in range(0, self._devices, DEVICES_PER_NODE):
            indexes = range(min(DEVICES_PER_NODE, self._devices - node))
            node_id = f"node-{node // DEVICES_PER_NODE:04d}"
            devices = tuple(
                Device(
                    device_id=f"{node_id}/{i}", node_id=node_id, index=i, kind=DeviceKind.CUDA, memory_bytes=80 * 2**30
                )
                for i in indexes
            )
            joined = NodeJoined(at=time.time(), node_id=node_id, devices=devices, cpus=128.0, host_memory_bytes=2**40)
            self.coming.append(joined)

    def launch(self, launch: Launch) -> None:
        self.running[launch.bundle_id] = launch

    def stop(self, bundle_id: str, reason: str) -> None:
        self._asked[bundle_id] = reason
        if self.obedient:
            self.leave()

    def leave(self) -> None:
        """Have those that were told to stop do so."""
        for bundle_id in self._asked:
            del self.running[bundle_id]
            self.coming.append(BundleStopped(at=time.time(), bundle_id=bundle_id))
        self._asked.clear()

    def report(self, bundles: int, step: int) -> None:
        """Have that many bundles report a step."""
        metrics = {"train/loss": 1.0 / step, "train/tokens": float(step)}
        for bundle_id in itertools.islice(self.running, bundles):
            self.coming.append(
                StageReported(at=time.time(), bundle_id=bundle_id, step=step, metrics=metrics, progress=step / 1000)
            )

    def poll(self, timeout_s: float) -> list[Event]:
        events = list(self.coming)
        self.coming.clear()
        return events

    def available_outputs(self, stage_keys: Sequence[str]) -> set[str]:
        return set(stage_keys)

    def keep_checkpoint(self, study_id: str, stage_key: str) -> tuple[str, int] | None:
        return None

    def check(self) -> None: ...

    def close(self) -> None: ...


class Switch:
    """A preemption policy that can be turned off, so that taking work in and preempting for it are timed apart."""

    def __init__(self, policy: PreemptionPolicy) -> None:
        self.on = True
        self._policy = policy

    def __call__(
        self, snapshot: Snapshot, waiting: Sequence[Request], ordering: OrderingPolicy
    ) -> Sequence[Preemption]:
        return self._policy(snapshot, waiting, ordering) if self.on else ()


class WallClock:
    """Seconds since the epoch."""

    def now(self) -> float:
        return time.time()


class Rig:
    """A loop on a store and a cluster of its own, whose queue is filled the way that people do it."""

    def __init__(self, folder: Path, ordering: str, devices: int) -> None:
        self.store = DatabaseStore(f"sqlite:///{folder / 'store.db'}")
        self.cluster = StillCluster(devices)
        self.preemption = Switch(PREEMPTIONS[str(PREEMPTION["name"])](PREEMPTION))
        lease = self.store.lease()
        taken = self.store.take_lease(lease, Holder(host="bench", pid=1, started_at=0.0), {}, time.time())
        assert taken is not None
        self.loop = SchedulingLoop(
            cluster=self.cluster,
            store=self.store,
            clock=WallClock(),
            policies=Policies(
                ordering=ORDERINGS[ordering]({"name": ordering, **SETTINGS}),
                packing=BestFit(),
                preemption=self.preemption,
                tenants={name: Tenant(name=name, max_priority=100) for name in TENANTS},
            ),
            max_attempts=3,
            finish=lambda *_: StudyFinished(metrics={}, artifacts=()),
            term=taken.term,
        )

    def join(self) -> None:
        self.cluster.start()
        self.loop.wait_for_devices(10.0)

    def queue(self, name: str, config: Mapping[str, Any], variants: Sequence[Variant], priority: int = 0) -> None:
        """One study per tenant, of equal parts of the variants."""
        now = time.time()
        for number, tenant in enumerate(TENANTS):
            study = Study(
                study_id=f"{name}-{tenant}",
                name=name,
                sweep=(),
                config=config,
                submitted_at=now + number,
                tenant=tenant,
                priority=priority,
            )
            records = [
                RecordTrial(
                    trial=Trial(
                        trial_id=f"{study.study_id}-{n:04d}",
                        study_id=study.study_id,
                        number=n,
                        variant=variant,
                        submitted_at=now + number,
                        queued_at=now + number,
                    ),
                    was=None,
                    at=now,
                )
                for n, variant in enumerate(variants[number :: len(TENANTS)])
            ]
            command = Command(command_id=0, at=now, author="", kind=CommandKind.SUBMIT, target=study.study_id)
            self.store.submit(command, RecordStudy(study=study), records)


@contextmanager
def rig(ordering: str, devices: int) -> Iterator[Rig]:
    """A rig in a folder that goes away with it."""
    folder = Path(tempfile.mkdtemp(prefix="bench-scheduling-"))
    made = Rig(folder, ordering, devices)
    yield made
    made.store.close()
    shutil.rmtree(folder)


PLACE = f"place {PLACED_AT_ONCE}, as many as one cycle does"


def timed(times: Measured, name: str, call: Callable[[], object]) -> None:
    """Add one measurement [s]."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    times.setdefault(name, []).append({"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu})


def measure_cycles(sizes: argparse.Namespace, ordering: str, config: Mapping[str, Any], work: Work) -> Measured:
    """Cycles under one ordering, with residents and a queue of one priority. Some of them make a forecast, which the
    loop does every two seconds at most while there are trials without one; what that costs is measured by itself."""
    times: Measured = {}
    with rig(ordering, sizes.devices) as bench:
        bench.join()
        bench.queue("study", config, work)
        timed(times, "take the studies in and place the first", lambda: bench.loop.cycle(0.0))
        for repeat in range(sizes.repeats):
            bench.loop.suspend(60.0, "the next repeat")
            while len(bench.cluster.running) < sizes.devices:
                timed(times, PLACE, lambda: bench.loop.cycle(0.0))
            for _ in range(2):
                timed(times, "nothing fits", lambda: bench.loop.cycle(0.0))
            for step in range(1, 3):
                bench.cluster.report(REPORTS, 10 * repeat + step)
                timed(times, f"{REPORTS} reports", lambda: bench.loop.cycle(0.0))
            snapshot = bench.loop.state.snapshot(time.time())
            whole_queue = partial(forecast, bench.loop.state, snapshot.queue, snapshot.at)
            timed(times, "forecast of the whole queue", whole_queue)
    return times


def measure_preemption(sizes: argparse.Namespace, config: Mapping[str, Any], work: Work) -> Measured:
    """Cycles under `priority`, with residents of a lower priority than all of the queue. As many of them make room as
    the policy asks in one cycle."""
    times: Measured = {}
    for _ in range(sizes.repeats):
        with rig("priority", sizes.devices) as bench:
            bench.join()
            bench.queue("low", config, work[: sizes.devices])
            while len(bench.cluster.running) < sizes.devices:
                bench.loop.cycle(0.0)
            bench.queue("high", config, work[sizes.devices :], priority=1)
            bench.preemption.on = False
            timed(times, "take the studies in, nothing fits", lambda: bench.loop.cycle(0.0))
            bench.preemption.on, bench.cluster.obedient = True, False
            timed(times, "choose whom to preempt", lambda: bench.loop.cycle(0.0))
            timed(times, "nothing fits while residents are leaving", lambda: bench.loop.cycle(0.0))
            bench.cluster.leave()
            timed(times, "requeue those who left and place others", lambda: bench.loop.cycle(0.0))
            while len(bench.cluster.running) < sizes.devices:
                bench.loop.cycle(0.0)
    return times


def measure_sweep(variants: int) -> Measured:
    """From overrides to the queue, as `orchestrator submit` does it."""
    times: Measured = {}
    overrides = [*SWEEP, f"seed=range(0,{variants // 4})"]
    folder = Path(tempfile.mkdtemp(prefix="bench-sweep-"))
    home = Home(folder)
    prepared: list[Submission] = []
    timed(times, "compose, validate, read the data", lambda: prepared.append(prepare(overrides, home)))
    store = DatabaseStore(home.store_url)
    operations = DirectOperations(store, home, "bench")
    timed(times, "queue", lambda: operations.submit_prepared(prepared[0]))
    assert len(prepared[0].variants) == variants
    operations.close()
    shutil.rmtree(folder)
    return times


def measure_hydra(jobs: int) -> Measured:
    """What Hydra's own sweeper does for each job of the same sweep, but for running it."""
    times: Measured = {}
    sweep = parse_overrides(["algorithm=sft,grpo", "optimizer.lr=5e-4,1e-3", f"seed=range(0,{jobs // 4 + 1})", *SWEEP])
    with hydra_session(None):
        chosen = combinations(sweep)[:jobs]
        timed(times, "hydra.compose", lambda: [compose(config_name="config", overrides=job) for job in chosen])
    return times


def summarise(measured: Measured) -> dict[str, dict[str, float]]:
    """Median, least and most of the wall times, and the median CPU time [s]."""
    summary = {}
    for name, rows in measured.items():
        walls = [row["wall_s"] for row in rows]
        summary[name] = {
            "median_s": statistics.median(walls),
            "low_s": min(walls),
            "high_s": max(walls),
            "cpu_s": statistics.median(row["cpu_s"] for row in rows),
            "runs": len(rows),
        }
    return summary


def print_table(title: str, summary: Mapping[str, Mapping[str, float]]) -> None:
    """One row per measurement."""
    print(f"\n{title}")
    for name, row in summary.items():
        spread = f"{row['median_s']:.3f} s ({row['low_s']:.3f} to {row['high_s']:.3f})"
        print(f"  {name:48}{spread:>30}{row['cpu_s']:>9.3f} s of CPU{row['runs']:>5} runs", flush=True)


def main() -> int:
    """Print tables and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--variants", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    sizes = parser.parse_args()
    summaries: dict[str, Any] = {}
    composed = compose_study([*WORK, f"seed=range(0,{sizes.queued + sizes.devices})"])
    for ordering in ORDERINGS:
        summaries[ordering] = summarise(measure_cycles(sizes, ordering, composed.config, composed.variants))
        print_table(f"{ordering}: {sizes.queued} queued, {sizes.devices} devices", summaries[ordering])
    preemption = summarise(measure_preemption(sizes, composed.config, composed.variants))
    summaries["priority, preempting"] = preemption
    print_table(f"priority, preempting: {sizes.queued} queued, {sizes.devices} devices", preemption)
    del composed
    summaries["sweep"] = summarise(measure_sweep(sizes.variants))
    print_table(f"sweep of {sizes.variants} variants", summaries["sweep"])
    summaries["hydra"] = summarise(measure_hydra(HYDRA_JOBS))
    print_table(f"Hydra's own composition, {HYDRA_JOBS} jobs", summaries["hydra"])
    extrapolated = {
        name: summaries["hydra"]["hydra.compose"][name] * sizes.variants / HYDRA_JOBS for name in ("median_s", "cpu_s")
    }
    print(
        f"  extrapolated to {sizes.variants} jobs: {extrapolated['median_s']:.0f} s, {extrapolated['cpu_s']:.0f} s CPU"
    )
    made = provenance(sizes, "python -m tests.bench.scheduling")
    record = {"summary": summaries, "hydra_extrapolated": extrapolated, **made}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
