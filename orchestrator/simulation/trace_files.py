"""Writer of our own trace files. `schema.trace_table` has their columns, `cluster.traces.csv` reads them.

A file appears whole or not at all; one that ends in `.gz` is packed. Trials are taken one by one, so a generated
workload of any length can be written.
"""

import csv
import gzip
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from orchestrator.schema import DeviceKind, Node, TraceStage, TraceTrial
from orchestrator.schema.trace_table import ASSIGNED, GIB, NODE_COLUMNS, SEPARATOR, STAGE_COLUMNS, Column


def write_trials(path: Path, trials: Iterable[TraceTrial]) -> int:
    """Write one row per stage; how many trials that were. Raises ValueError for a name that can't be written."""
    with _new_file(path) as file:
        return write_trials_to(file, trials)


def write_trials_to(file: TextIO, trials: Iterable[TraceTrial]) -> int:
    """`write_trials` into an open file."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_names(STAGE_COLUMNS))
    count = 0
    for trial in trials:
        writer.writerows(_stage_row(trial, stage) for stage in trial.stages)
        count += 1
    return count


def write_nodes(path: Path, nodes: Iterable[Node]) -> None:
    """Write one row per node and kind of device on it."""
    with _new_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_names(NODE_COLUMNS))
        for node in nodes:
            writer.writerows(_node_rows(node))


def nodes_path(path: Path) -> Path:
    """Where the nodes of a trace file go by default: `week.csv.gz` has `week.nodes.csv`."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".csv") + ".nodes.csv")


def _names(columns: Iterable[Column]) -> list[str]:
    return [column.name for column in columns]


def _stage_row(trial: TraceTrial, stage: TraceStage) -> list[object]:
    demand = stage.demand
    text = (trial.study_id, trial.trial_id, trial.tenant, stage.name, stage.key, demand.kind)
    if "\r" in "".join(text):
        raise ValueError(
            f"trial {trial.trial_id!r} can't be written: its names must not have a carriage return in them"
        )
    return [
        trial.study_id,
        trial.trial_id,
        trial.tenant,
        trial.priority,
        trial.submitted_at,
        stage.name,
        stage.key,
        demand.kind,
        stage.duration_s,
        demand.devices,
        demand.share,
        demand.memory_bytes / GIB,
        demand.cpus,
        demand.host_memory_bytes / GIB,
        _joined("model", demand.models),
        demand.max_nodes,
        demand.max_slowdown,
        _joined("phase", (f"{name}{ASSIGNED}{seconds}" if name else "" for name, seconds in stage.phases.items())),
    ]


def _joined(what: str, names: Iterable[str]) -> str:
    names = tuple(names)
    for name in names:
        if not name or SEPARATOR in name:
            raise ValueError(
                f"{what} {name!r}: can't be written, its name must not be empty or have a {SEPARATOR} in it"
            )
    return SEPARATOR.join(names)


def _node_rows(node: Node) -> Iterator[list[object]]:
    devices = Counter((device.model, device.memory_bytes, device.kind.value) for device in node.devices)
    for (model, memory_bytes, kind), count in (devices or {("", 0, DeviceKind.CUDA.value): 0}).items():
        host = node.cpus, node.host_memory_bytes / GIB
        yield [node.node_id, count, model, memory_bytes / GIB, *host, kind]


@contextmanager
def _new_file(path: Path) -> Iterator[TextIO]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as raw:
            if path.suffix == ".gz":
                # Without name and time in it, equal traces are equal files.
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed, _text(packed) as file:
                    yield file
            else:
                with _text(raw) as file:
                    yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _text(file: io.BufferedWriter | gzip.GzipFile) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, encoding="utf-8", newline="")
