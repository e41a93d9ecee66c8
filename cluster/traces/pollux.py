"""The workloads of Pollux (Qiao et al., OSDI'21; the artifact of petuum/adaptdl) and its applications' profiles.

A workload: `name,time,application,num_replicas,batch_size`, one job a row, `time` in seconds. The profiles are a folder
per application: `placements.csv` and `scalability.csv` have the measured seconds of a step (and of the synchronization
in it) by placement and batch per GPU, `validation-BATCH.csv` the iterations that a batch size needs per epoch.

A job trains its application to the last epoch of its profile with the GPUs and the batch size of its row. Its duration
is the iterations of all epochs times the seconds of an iteration on `num_replicas` GPUs, packed onto as few nodes as
possible. Where the batch per GPU is more than was measured to fit, gradients are accumulated over equal parts of it,
and only the last part synchronizes. Between two measured batch sizes both numbers are interpolated linearly.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from cluster.traces.errors import BadRow, Rows, TraceError
from cluster.traces.tables import rows_of, seconds, whole
from orchestrator.schema import Demand, Device, DeviceKind, Node, Trace, TraceStage, TraceTrial

Key = TypeVar("Key")

_GIB = 1 << 30
# The paper's testbed (section 5.1): 16 AWS g4dn.12xlarge, each with 4 NVIDIA T4, 48 vCPUs and 192 GB.
_MODEL, _DEVICE_BYTES, _CPUS, _HOST_BYTES = "T4", 16 * _GIB, 48.0, 192_000_000_000


def read(
    *, workload: str, profiles: str = "", nodes: int = 16, gpus_per_node: int = 4, skip_bad_rows: bool = False
) -> Trace:
    """The jobs of the file `workload`, each a trial of one stage in a study of its own, and a cluster of `nodes` nodes.

    `profiles` is the folder with the applications, by default the one of that name beside the workload. A job gets as
    many nodes as its GPUs need, since its duration is that of the packed placement. Raises TraceError.
    """
    folder = Path(profiles) if profiles else Path(workload).with_name("profiles")
    rows = Rows(workload, skip=skip_bad_rows)
    jobs = _Jobs(folder, gpus_per_node)
    trials: list[TraceTrial] = []
    for line, cells in rows_of(workload, ("name", "time", "application", "num_replicas", "batch_size")):
        try:
            trials.append(jobs.trial(line, cells))
        except BadRow as error:
            rows.refuse(line, error)
    if not trials:
        what = f"holds no job that can be used ({rows.skipped} rows are broken)"
        raise TraceError(workload, 0, what, "name another file as trace.workload")
    return Trace(
        name=f"pollux-{Path(workload).stem}",
        trials=tuple(sorted(trials, key=lambda trial: trial.submitted_at)),
        nodes=tuple(_node(f"node-{number:02}", gpus_per_node) for number in range(nodes)),
        skipped_rows=rows.skipped,
        file=workload,
    )


def _node(node_id: str, gpus: int) -> Node:
    devices = tuple(
        Device(
            device_id=f"{node_id}/cuda{index}",
            node_id=node_id,
            index=index,
            kind=DeviceKind.CUDA,
            memory_bytes=_DEVICE_BYTES,
            model=_MODEL,
        )
        for index in range(gpus)
    )
    return Node(node_id=node_id, devices=devices, cpus=_CPUS, host_memory_bytes=_HOST_BYTES)


class _Jobs:
    """Rows of a workload -> trials."""

    def __init__(self, folder: Path, gpus_per_node: int) -> None:
        self._folder = folder
        self._gpus_per_node = gpus_per_node
        self._names: set[str] = set()

    def trial(self, line: int, cells: Sequence[str] | None) -> TraceTrial:
        if cells is None:
            raise BadRow("has too few cells, or too many", "write name,time,application,num_replicas,batch_size")
        name, time, application, num_replicas, batch_size = cells
        if not name or name in self._names:
            raise BadRow(f"name={name!r} is empty or taken", "give every job a name of its own")
        gpus, batch = whole("num_replicas", num_replicas), whole("batch_size", batch_size)
        if not gpus or batch < gpus:
            raise BadRow(f"num_replicas={gpus}, batch_size={batch}", "use at least one GPU, and a sample for each")
        known = sorted(path.name for path in self._folder.glob("*") if (path / "placements.csv").is_file())
        if application not in known:
            there = ", ".join(known) or f"none in {self._folder}; set trace.profiles"
            raise BadRow(f"application={application!r} has no profile", f"there is: {there}")
        submitted_at = seconds("time", time)
        duration_s = profile(str(self._folder / application)).duration_s(gpus, batch, self._gpus_per_node)
        self._names.add(name)
        demand = Demand(
            devices=gpus,
            share=1.0,
            memory_bytes=0,
            max_nodes=math.ceil(gpus / self._gpus_per_node),
            kind=application,
        )
        stage = TraceStage(name=application, demand=demand, duration_s=duration_s)
        return TraceTrial(trial_id=name, study_id=name, submitted_at=submitted_at, stages=(stage,), line=line)


# --- profiles --------------------------------------------------------------------------------------------------------


Steps = Mapping[int, tuple[float, float]]
"""By batch per GPU, in rising order: the seconds of a step, and those of the synchronization in it."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One application's measurements.

    `placements`: by the GPUs on each node ("24": two and four), written as the rotation that is the smallest.
    `scalability`: by (nodes, GPUs). `iterations`: by batch size, how many it takes to the last epoch.
    """

    name: str
    placements: Mapping[str, Steps]
    scalability: Mapping[tuple[int, int], Steps]
    iterations: Mapping[int, int]

    def duration_s(self, gpus: int, batch: int, gpus_per_node: int) -> float:
        """Seconds of training to the last epoch. Raises BadRow for what was not measured."""
        steps = self._steps(gpus, gpus_per_node)
        smallest, largest = min(steps), max(steps)
        per_gpu = math.ceil(batch / gpus)
        parts = math.ceil(per_gpu / largest)
        part = math.ceil(per_gpu / parts)
        if part < smallest:
            what = f"batch_size={batch} is {part} a GPU, less than {self.name} was measured with"
            raise BadRow(what, f"use at least {smallest * gpus}")
        step_s = _between({size: step for size, (step, _) in steps.items()}, part)
        sync_s = _between({size: sync for size, (_, sync) in steps.items()}, part)
        return self._iterations(batch) * (step_s + (parts - 1) * (step_s - sync_s))

    def _steps(self, gpus: int, gpus_per_node: int) -> Steps:
        full, rest = divmod(gpus, gpus_per_node)
        packed = [gpus_per_node] * full + [rest] * bool(rest)
        written = "".join(map(str, min(packed[i:] + packed[:i] for i in range(len(packed)))))
        found = self.placements.get(written) or self.scalability.get((len(packed), gpus))
        if found is None:
            what = f"num_replicas={gpus}: {self.name} was not measured on {gpus} GPUs of {len(packed)} nodes"
            raise BadRow(what, "use a number that its placements.csv or scalability.csv has")
        return found

    def _iterations(self, batch: int) -> float:
        if not min(self.iterations) <= batch <= max(self.iterations):
            measured = f"{min(self.iterations)} to {max(self.iterations)}"
            raise BadRow(f"batch_size={batch} is outside what {self.name} was trained with", f"use {measured}")
        return _between(self.iterations, batch)


def _between(values: Mapping[int, float], at: int) -> float:
    """Linear interpolation; `at` is within the keys, which rise."""
    if at in values:
        return values[at]
    below, above = next((a, b) for a, b in pairwise(values) if a < at < b)
    return values[below] + (values[above] - values[below]) * (at - below) / (above - below)


@cache
def profile(folder: str) -> Profile:
    """The profile in an application's folder. Raises TraceError."""
    path = Path(folder)
    placements: dict[str, dict[int, tuple[float, float]]] = {}
    for cells in _measured(path / "placements.csv", ("placement", "local_bsz", "step_time", "sync_time")):
        placements.setdefault(f"{cells[0]:.0f}", {})[int(cells[1])] = cells[2], cells[3]
    scalability: dict[tuple[int, int], dict[int, tuple[float, float]]] = {}
    columns = ("num_nodes", "num_replicas", "local_bsz", "step_time", "sync_time")
    for cells in _measured(path / "scalability.csv", columns):
        scalability.setdefault((int(cells[0]), int(cells[1])), {})[int(cells[2])] = cells[3], cells[4]
    iterations: dict[int, int] = {}
    for file in path.glob("validation-*.csv"):
        *_, (last,) = _measured(file, ("iteration",))
        iterations[int(file.stem.rpartition("-")[2])] = int(last)
    return Profile(path.name, _rising(placements), _rising(scalability), dict(sorted(iterations.items())))


def _measured(file: Path, columns: Sequence[str]) -> Iterator[list[float]]:
    """The numbers of a profile, row by row. Raises TraceError: a profile with a broken row is no profile."""
    rows = Rows(str(file), skip=False)
    for line, cells in rows_of(str(file), columns):
        try:
            if cells is None:
                raise BadRow("has too few cells, or too many", f"write {','.join(columns)}")
            numbers = [seconds(name, cell) for name, cell in zip(columns, cells, strict=True)]
        except BadRow as error:
            rows.refuse(line, error)
        else:
            yield numbers


def _rising(measured: Mapping[Key, Steps]) -> dict[Key, Steps]:
    return {key: dict(sorted(steps.items())) for key, steps in measured.items()}
