"""What a decision costs on clusters of any size, and a million trials on ten thousand GPUs.

    python -m tests.bench.scale [--trials 1000000] [--devices 10000] [--repeats 3]

Sweeps of a hundred trials, of fractions of devices, whole ones and gangs, arrive so that they ask for nine tenths of
the devices in the long run. `orchestrator simulate` serves them with `ordering=fifo packing=best_fit`: the loop, the
state machine and the policies that serve a real cluster, in virtual time, with the simulator's recorder for a store.
Every run is a process of its own, so that its peak memory is its own. There is nothing to compare it with: published
simulators of this size place no gangs and no fractions, or keep no queue.
"""

import argparse
import json
import math
import resource
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from orchestrator.packing import PACKINGS, BestFit
from orchestrator.schema import Demand, Device, DeviceKind, Node, Placement, Request, Trace, TraceStage, TraceTrial
from orchestrator.simulation.composing import compose_runs
from orchestrator.simulation.runner import simulate
from orchestrator.snapshot import Snapshot
from tests.bench.provenance import provenance

RECORD = Path(__file__).parent / "records" / "scale.json"
DEVICES_PER_NODE = 8
SWEEP = 100
NEVER_S = 1e12
TRACE = {
    "name": "sweeps",
    "reader": "tests.bench.scale:read",
    "protocol": "replay",
    "window": 1,
    "known_demands": None,
}
LOAD = 0.9
CURVE = (100, 1_000, 10_000, 100_000)
# Of a run on the curve, so many trials are counted once the cluster has filled up.
COUNTED = 5_000
GIB = 2**30


@dataclass(frozen=True)
class Kind:
    """What the trials of a sweep ask for, how often such sweeps come, and how long such trials typically last."""

    weight: float
    devices: int
    share: float
    memory_gib: int
    cpus: float
    median_s: float

    def demand(self) -> Demand:
        return Demand(
            devices=self.devices,
            share=self.share,
            memory_bytes=self.memory_gib * GIB,
            cpus=self.cpus,
            host_memory_bytes=self.devices * 16 * GIB,
        )


KINDS = (
    Kind(0.15, 1, 0.1, 6, 1.0, 900.0),
    Kind(0.15, 1, 0.25, 16, 2.0, 1800.0),
    Kind(0.10, 1, 0.3, 20, 2.0, 1800.0),
    Kind(0.20, 1, 0.5, 30, 4.0, 3600.0),
    Kind(0.25, 1, 1.0, 70, 8.0, 3600.0),
    Kind(0.08, 2, 1.0, 70, 16.0, 3600.0),
    Kind(0.05, 4, 1.0, 70, 32.0, 7200.0),
    Kind(0.02, 8, 1.0, 70, 64.0, 7200.0),
)
SIGMA = 0.7
"""Durations are log-normal, with this standard deviation of the logarithm: half of it between sweeps of a kind, half
between the trials of a sweep."""


def nodes(devices: int) -> list[Node]:
    """Of eight devices each."""
    made = []
    for number in range(-(-devices // DEVICES_PER_NODE)):
        name = f"node-{number:05d}"
        on_node = tuple(
            Device(device_id=f"{name}/{i}", node_id=name, index=i, kind=DeviceKind.CUDA, memory_bytes=80 * GIB)
            for i in range(min(DEVICES_PER_NODE, devices - number * DEVICES_PER_NODE))
        )
        made.append(Node(node_id=name, devices=on_node, cpus=128.0, host_memory_bytes=2048 * GIB))
    return made


def sweeps(devices: int, trials: int, seed: int = 0) -> Iterator[list[TraceTrial]]:
    """Sweep after sweep, each made when it is asked for."""
    rng = np.random.default_rng(seed)
    weights = np.array([kind.weight for kind in KINDS]) / sum(kind.weight for kind in KINDS)
    mean = math.exp(SIGMA**2 / 2)
    asked = sum(w * k.devices * k.share * k.median_s * mean for w, k in zip(weights, KINDS, strict=True)) * SWEEP
    between_s = asked / (LOAD * devices)
    spread = SIGMA / math.sqrt(2)
    at = 0.0
    for number, first in enumerate(range(0, trials, SWEEP)):
        at += rng.exponential(between_s)
        kind = KINDS[int(rng.choice(len(KINDS), p=weights))]
        demand, study_id = kind.demand(), f"sweep-{number:06d}"
        typical_s = kind.median_s * rng.lognormal(0.0, spread)
        durations = (typical_s * rng.lognormal(0.0, spread, min(SWEEP, trials - first))).tolist()
        yield [
            TraceTrial(
                trial_id=f"{study_id}-{n:04d}",
                study_id=study_id,
                submitted_at=at,
                stages=(TraceStage(name="train", demand=demand, duration_s=duration_s),),
            )
            for n, duration_s in enumerate(durations)
        ]


class Sweeps(Sequence[TraceTrial]):
    """The trials of all sweeps, made whenever somebody goes through them: a million never lie in memory at once."""

    def __init__(self, devices: int, trials: int, seed: int) -> None:
        self._devices, self._trials, self._seed = devices, trials, seed

    def __len__(self) -> int:
        return self._trials

    def __iter__(self) -> Iterator[TraceTrial]:
        return chain.from_iterable(sweeps(self._devices, self._trials, self._seed))

    def __getitem__(self, index: int) -> TraceTrial:
        return self._last if index in (-1, self._trials - 1) else next(islice(iter(self), index, None))

    @cached_property
    def _last(self) -> TraceTrial:
        return deque(self, maxlen=1)[0]


def read(devices: int, trials: int, seed: int, skip_bad_rows: bool) -> Trace:
    """The reader that a simulation's config names. None of the rows is bad."""
    return Trace(name="sweeps", trials=Sweeps(devices, trials, seed), nodes=tuple(nodes(devices)))


class Timed:
    """`best_fit`, and how long it took. `counts_from`: so many placements are left out at the beginning. `since` and
    `until`: (wall, CPU) when it was asked for the first one that counts, and when it had made the last one."""

    def __init__(self, counts_from: int) -> None:
        self._policy = BestFit()
        self._counts_from = counts_from
        self.placements = 0
        self.counted = 0
        self.packing_s = 0.0
        self.since = self.until = (0.0, 0.0)

    def __call__(self, snapshot: Snapshot, requests: Sequence[Request]) -> Sequence[Placement]:
        counts = self.placements >= self._counts_from
        if counts and not self.counted:
            self.since = time.perf_counter(), time.process_time()
        started = time.process_time()
        placed = self._policy(snapshot, requests)
        if counts:
            self.packing_s += time.process_time() - started
            self.counted += len(placed)
            if placed:
                self.until = time.perf_counter(), time.process_time()
        self.placements += len(placed)
        return placed


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run. `wall_s` is of all of it; `placing_s`, `cpu_s` and `packing_s` are of the placements that were counted:
    wall and CPU time from the first to the last of them, and the CPU time that the packing policy took, questions that
    it answered with no placement included. `peak_bytes` is the most that was resident."""

    devices: int
    trials: int
    wall_s: float
    placing_s: float
    cpu_s: float
    packing_s: float
    placements: int
    peak_bytes: int
    makespan_s: float
    wait_p99_s: float
    utilisation: float

    @property
    def decision_us(self) -> float:
        """Of CPU for each trial: to take it in, to place it, and to end and forget another one [microseconds]."""
        return 1e6 * self.cpu_s / self.placements

    @property
    def packing_us(self) -> float:
        """Of it, what the packing policy takes [microseconds]."""
        return 1e6 * self.packing_s / self.placements


def drive(devices: int, trials: int, counts_from: int = 0, seed: int = 0) -> Measured:
    """Serve so many trials on so many devices; the first `counts_from` are served but not counted."""
    packing = Timed(counts_from)
    config = dict(compose_runs(["trace=synthetic", "ordering=fifo", f"ordering.max_wait_s={NEVER_S}"])[0].config)
    own = {"devices": devices, "trials": trials, "seed": seed}
    config["packing"] = {"name": "timed"}
    config["trace"] = {**TRACE, **own}
    began = time.perf_counter()
    # The simulation is told to pack by a name.
    with patch.dict(PACKINGS, timed=lambda: packing):
        result = simulate(config)
    assert packing.placements == trials == result.completed
    assert result.makespan_s is not None and result.wait_p99_s is not None and result.utilisation is not None  # noqa: PT018
    return Measured(
        devices=devices,
        trials=trials,
        wall_s=time.perf_counter() - began,
        placing_s=packing.until[0] - packing.since[0],
        cpu_s=packing.until[1] - packing.since[1],
        packing_s=packing.packing_s,
        placements=packing.counted,
        peak_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        makespan_s=result.makespan_s,
        wait_p99_s=result.wait_p99_s,
        utilisation=result.utilisation,
    )


def alone(run: Callable[..., Measured], *arguments: int) -> Measured:
    """In a process of its own, which ends with it."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run, *arguments).result()


def on_curve(devices: int) -> Measured:
    """A point of the curve: the cluster fills up first, with as many trials as hold it at the load."""
    held = sum(k.weight * k.devices * k.share for k in KINDS) / sum(k.weight for k in KINDS)
    fills = 2 * SWEEP * max(1, round(LOAD * devices / held / SWEEP))
    return drive(devices, fills + COUNTED, counts_from=fills)


def summarise(runs: Sequence[Measured]) -> dict[str, Any]:
    """The medians and ranges of repeated runs of one size."""
    alike = ("devices", "trials", "placements", "makespan_s", "wait_p99_s", "utilisation")
    summary: dict[str, Any] = {name: getattr(runs[0], name) for name in alike} | {"runs": len(runs)}
    for name in ("wall_s", "placing_s", "cpu_s", "packing_s", "peak_bytes", "decision_us", "packing_us"):
        values = [getattr(run, name) for run in runs]
        summary[name] = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return summary


def growth(curve: Sequence[dict[str, Any]], name: str) -> float:
    """How many times what a decision costs grows over the curve, for each time that the logarithm of the cluster does:
    1 or less is no faster than the logarithm."""
    first, last = curve[0], curve[-1]
    logarithm = math.log(last["devices"]) / math.log(first["devices"])
    return float(last[name]["median"] / first[name]["median"] / logarithm)


def told(summary: dict[str, Any]) -> str:
    """One line."""
    decision, packing, wall = summary["decision_us"], summary["packing_us"], summary["wall_s"]
    spread = f"({decision['low']:.0f} to {decision['high']:.0f})"
    size = f"{summary['trials']:>8} trials on {summary['devices']:>6} devices"
    return (
        f"{size}: {decision['median']:5.0f} us of CPU a trial {spread}, packing {packing['median']:4.0f} us = "
        f"{1e6 / packing['median']:.0f} placements/s, {wall['median']:.1f} s, "
        f"{summary['peak_bytes']['high'] / GIB:.2f} GiB, waits p99 {summary['wait_p99_s']:.0f} s"
    )


def main() -> int:
    """Print a line per size and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1_000_000, help="0: the curve only")
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3, help="of each point on the curve")
    parser.add_argument("--million-repeats", type=int, default=1)
    parser.add_argument("--curve", type=int, nargs="*", default=list(CURVE))
    sizes = parser.parse_args()
    curve = []
    for devices in sizes.curve:
        curve.append(summarise([alone(on_curve, devices) for _ in range(sizes.repeats)]))
        print(told(curve[-1]), flush=True)
    record: dict[str, Any] = {"curve": curve}
    if len(curve) > 1:
        record["growth_by_logarithm"] = {name: growth(curve, name) for name in ("decision_us", "packing_us")}
        print(f"growth for each time that the logarithm grows: {record['growth_by_logarithm']}")
    if sizes.trials:
        runs = [alone(drive, sizes.devices, sizes.trials) for _ in range(sizes.million_repeats)]
        record["long_run"] = summarise(runs)
        print(told(record["long_run"]), flush=True)
    RECORD.write_text(json.dumps(record | provenance(sizes, "python -m tests.bench.scale"), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
