"""The published protocol "arrivals only", straight on a room and a policy: what any simulator of it must agree with.

Weng et al., "Beware of Fragmentation", USENIX ATC'23: the pods are shuffled, then drawn again and appended until their
GPU demand reaches 130 % of the cluster's. They arrive one after the other, nothing ends, nothing moves, and whoever
fits nowhere is dropped.

    python -m tests.unit.orchestrator.packing.arrivals best_fit,fragmentation 10

prints the mean and the standard deviation over seeds 0 to 9 of what is unallocated at 100 % and at 130 %, and
the processor's time per seed.

    python -m tests.unit.orchestrator.packing.arrivals frontier,fragmentation 40:50 gang=0.6

does so over seeds 40 to 49 of other mixes of the pods, see `reweighted`.
"""

import csv
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from orchestrator.packing import PACKINGS, PackingPolicy
from orchestrator.schema import Demand, Device, DeviceKind, Node, Request
from orchestrator.snapshot import SHARE_UNITS, Arrivals, Room, Snapshot, share_units

FOLDER = Path(__file__).parents[5] / "shared" / "data" / "traces" / "alibaba2023"
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`expected`: how often each demand is in the pod list."""

    nodes: Sequence[Node]
    demands: Sequence[Demand]
    expected: Mapping[Demand, float]


def alibaba(folder: Path = FOLDER) -> Workload:
    """The default pod list on the nodes with GPUs."""
    with (folder / "openb_node_list_gpu_node.csv").open() as file:
        nodes = [_node(row) for row in csv.DictReader(file)]
    with (folder / "openb_pod_list_default.csv").open() as file:
        demands = [_demand(row) for row in csv.DictReader(file)]
    expected: dict[Demand, float] = {}
    for demand in demands:
        expected[demand] = expected.get(demand, 0) + 1
    return Workload(nodes=nodes, demands=demands, expected=expected)


def kind_of(demand: Demand) -> str:
    """host (no device), part (of a device), whole (one device) or gang."""
    if demand.devices != 1:
        return "gang" if demand.devices else "host"
    return "part" if demand.share < 1 else "whole"


def reweighted(workload: Workload, mix: Mapping[str, float], seed: int, pods: int = 8_000) -> Workload:
    """So many pods drawn again. mix: by `kind_of` which part of them is of a kind, the others in their proportion; and
    under `bound` which part of those that want devices is bound to a model, drawn by how many devices there are of it
    on nodes that fit."""
    random = Random(seed)
    of_kind: dict[str, list[Demand]] = {}
    for demand in workload.demands:
        of_kind.setdefault(kind_of(demand), []).append(demand)
    left = 1 - sum(part for kind, part in mix.items() if kind in of_kind)
    others = sum(len(demands) for kind, demands in of_kind.items() if kind not in mix)
    weights = [mix.get(kind, left * len(demands) / others) for kind, demands in of_kind.items()]
    demands = [random.choice(of_kind[kind]) for kind in random.choices([*of_kind], weights, k=pods)]
    bound = mix.get("bound", 0.0)
    demands = [_bound(workload, demand, random) if random.random() < bound else demand for demand in demands]
    expected: dict[Demand, float] = {}
    for demand in demands:
        expected[demand] = expected.get(demand, 0) + 1
    return Workload(nodes=workload.nodes, demands=demands, expected=expected)


def _bound(workload: Workload, demand: Demand, random: Random) -> Demand:
    if not demand.devices:
        return demand
    devices: dict[str, int] = {}
    for node in workload.nodes:
        fits = node.cpus >= demand.cpus and node.host_memory_bytes >= demand.host_memory_bytes
        if fits and len(node.devices) >= demand.devices:
            model = node.devices[0].model
            devices[model] = devices.get(model, 0) + len(node.devices)
    return replace(demand, models=tuple(random.choices([*devices], [*devices.values()])))


def _node(row: Mapping[str, str]) -> Node:
    devices = tuple(
        Device(
            device_id=f"{row['sn']}/{index}",
            node_id=row["sn"],
            index=index,
            kind=DeviceKind.CUDA,
            memory_bytes=0,
            model=row["model"],
        )
        for index in range(int(row["gpu"]))
    )
    return Node(
        node_id=row["sn"],
        devices=devices,
        cpus=int(row["cpu_milli"]) / 1000,
        host_memory_bytes=int(row["memory_mib"]) * _MIB,
    )


def _demand(row: Mapping[str, str]) -> Demand:
    devices = int(row["num_gpu"])
    return Demand(
        devices=devices,
        share=int(row["gpu_milli"]) / 1000 if devices else 1.0,
        memory_bytes=0,
        cpus=int(row["cpu_milli"]) / 1000,
        host_memory_bytes=int(row["memory_mib"]) * _MIB,
        models=tuple(filter(None, row["gpu_spec"].split("|"))),
    )


def arriving(workload: Workload, seed: int, until: float = 1.3) -> Iterator[Demand]:
    """Demands up to the first with which they reach `until` times what the devices can give."""
    random = Random(seed)
    shuffled = list(workload.demands)
    random.shuffle(shuffled)
    capacity = until * SHARE_UNITS * sum(len(node.devices) for node in workload.nodes)
    asked = 0
    for turn in range(2**31):
        demand = shuffled[turn] if turn < len(shuffled) else random.choice(workload.demands)
        asked += demand.devices * share_units(demand.share)
        yield demand
        if asked >= capacity:
            return


def unallocated(
    policy: PackingPolicy,
    workload: Workload,
    seed: int,
    read_at: Sequence[float] = (1.0, 1.3),
    *,
    learned: bool = False,
) -> tuple[list[float], Room]:
    """Percent of the devices' shares that nobody holds when the demand that arrived first reaches each of `read_at`
    times what there is; and the room at the end. `learned`: the policy knows only what has arrived."""
    room = Room(workload.nodes)
    snapshot = Snapshot(at=0.0, room=room, arrivals=Arrivals(known=None if learned else workload.expected))
    capacity = room.device_count * SHARE_UNITS
    asked, held, read = 0, 0, []
    for turn, demand in enumerate(arriving(workload, seed, read_at[-1])):
        snapshot.arrivals.observe(demand)
        request = Request(stage_key=str(turn), study_id="", trial_ids=(), demand=demand, queued_at=0.0)
        units = demand.devices * share_units(demand.share)
        for placement in policy(snapshot, [request]):
            room.take(placement, demand.kind)
            held += units
        asked += units
        while len(read) < len(read_at) and asked >= read_at[len(read)] * capacity:
            read.append(100.0 * (1 - held / capacity))
    return read, room


def _print_table(names: Sequence[str], seeds: Sequence[int], mix: Mapping[str, float]) -> None:
    workload = alibaba()
    print(f"{'policy':16}{'at 100 %':>10}{'sd':>7}{'at 130 %':>10}{'sd':>7}{'cpu s':>8}")
    for name in names:
        read, seconds = [], 0.0
        for seed in seeds:
            drawn = reweighted(workload, mix, seed) if mix else workload
            started = time.process_time()
            read.append(unallocated(PACKINGS[name](), drawn, seed)[0])
            seconds += (time.process_time() - started) / len(seeds)
        columns = [f"{statistics.mean(c):10.2f}{statistics.pstdev(c):7.2f}" for c in zip(*read, strict=True)]
        print(f"{name:16}{''.join(columns)}{seconds:8.2f}", flush=True)


def _main(names: str, seeds: str, *mix: str) -> None:
    first, _, last = seeds.rpartition(":")
    parts = {kind: float(part) for kind, _, part in (one.partition("=") for one in mix)}
    _print_table(names.split(","), range(int(first or 0), int(last)), parts)


if __name__ == "__main__":
    _main(*sys.argv[1:])
