"""The Alibaba GPU trace of 2023 (cluster-trace-gpu-v2023; Weng et al., USENIX ATC'23), and files in its format.

Pods: `name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time`.
A pod asks for `num_gpu` GPUs and `gpu_milli` thousandths of each; `gpu_spec` names the GPU models that will do, with |
between them, and none is any. Times are in seconds. Nodes: `sn,cpu_milli,memory_mib,gpu,model`.

The trace says nothing about GPU memory: pods ask for none, and the devices have none. A pod runs from when it was
scheduled to when it was deleted; one that never was scheduled counts from its creation.
"""

from collections.abc import Mapping

from cluster.traces.errors import MAX_DEVICES_PER_NODE, BadRow, Rows, TraceError
from cluster.traces.tables import rows_of, seconds, whole
from orchestrator.schema import Demand, Device, DeviceKind, Node, Trace, TraceStage, TraceTrial

_MIB = 1 << 20
_POD_COLUMNS = (
    "name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec", "creation_time", "deletion_time",
    "scheduled_time",
)  # fmt: skip
_NODE_COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")


def read(*, pods: str, nodes: str = "", skip_bad_rows: bool = False) -> Trace:
    """The trace in the files `pods` and `nodes`; without the latter its cluster is not known. Every pod is a trial of
    one stage in a study of its own.

    Raises TraceError for the first broken row, with its line; with `skip_bad_rows` it is counted and left out.
    """
    rows = Rows(pods, skip=skip_bad_rows)
    trials = _trials(pods, rows)
    if not trials:
        raise TraceError(pods, 0, f"holds no usable pod; {rows.skipped} rows are broken", "name another file")
    node_rows = Rows(nodes, skip=skip_bad_rows)
    known = _nodes(nodes, node_rows) if nodes else ()
    if nodes and not known:
        raise TraceError(nodes, 0, "holds no node that can be used", "name another file")
    return Trace(
        name="alibaba2023",
        trials=sorted(trials, key=lambda trial: trial.submitted_at),
        nodes=known,
        skipped_rows=rows.skipped + node_rows.skipped,
        file=pods,
    )


def _trials(path: str, rows: Rows) -> list[TraceTrial]:
    trials: list[TraceTrial] = []
    demands: dict[tuple[str, ...], Demand] = {}
    names: set[str] = set()
    for line, cells in rows_of(path, _POD_COLUMNS):
        try:
            trial = _trial(line, _cells(cells, _POD_COLUMNS), demands)
            if trial.trial_id in names:
                raise BadRow(f"a second pod is named {trial.trial_id}", "give every pod a name of its own")
        except BadRow as error:
            rows.refuse(line, error)
            continue
        names.add(trial.trial_id)
        trials.append(trial)
    return trials


def _cells(cells: list[str] | None, columns: tuple[str, ...]) -> list[str]:
    if cells is None:
        raise BadRow("has too few cells, or too many", f"write one for each column: {','.join(columns)} and the others")
    return cells


def _trial(line: int, cells: list[str], demands: dict[tuple[str, ...], Demand]) -> TraceTrial:
    name, created, deleted, scheduled = cells[0], cells[6], cells[7], cells[8]
    if not name:
        raise BadRow("has no name", "give every pod a name of its own")
    asked = tuple(cells[1:6])
    demand = demands.get(asked)
    if demand is None:
        demand = demands[asked] = _demand(cells)
    created_at, deleted_at = seconds("creation_time", created), seconds("deletion_time", deleted)
    started_at = seconds("scheduled_time", scheduled) if scheduled else created_at
    if not created_at <= started_at <= deleted_at:
        times = f"creation_time={created}, scheduled_time={scheduled}, deletion_time={deleted}"
        raise BadRow(f"its times run backwards: {times}", "let each be no earlier than the one before")
    stage = TraceStage(name="pod", demand=demand, duration_s=deleted_at - started_at)
    return TraceTrial(trial_id=name, study_id=name, submitted_at=created_at, stages=(stage,), line=line)


def _demand(cells: list[str]) -> Demand:
    cpu_milli, memory_mib = whole("cpu_milli", cells[1]), whole("memory_mib", cells[2])
    devices, gpu_milli = whole("num_gpu", cells[3]), whole("gpu_milli", cells[4])
    if gpu_milli > 1000:
        raise BadRow(
            f"gpu_milli={gpu_milli} is more than one GPU", "use num_gpu for whole GPUs and at most 1000 of each"
        )
    if bool(devices) is not bool(gpu_milli):
        raise BadRow(f"num_gpu={devices} and gpu_milli={gpu_milli} contradict each other", "have both or neither at 0")
    return Demand(
        devices=devices,
        share=gpu_milli / 1000 if devices else 1.0,
        memory_bytes=0,
        cpus=cpu_milli / 1000,
        host_memory_bytes=memory_mib * _MIB,
        models=tuple(sorted({model for model in cells[5].strip().split("|") if model})) if devices else (),
    )


def _nodes(path: str, rows: Rows) -> tuple[Node, ...]:
    nodes: dict[str, Node] = {}
    for line, cells in rows_of(path, _NODE_COLUMNS):
        try:
            node = _node(_cells(cells, _NODE_COLUMNS), nodes)
        except BadRow as error:
            rows.refuse(line, error)
            continue
        nodes[node.node_id] = node
    return tuple(nodes.values())


def _node(cells: list[str], known: Mapping[str, Node]) -> Node:
    name, model = cells[0], cells[4].strip()
    if not name or name in known:
        raise BadRow(f"sn={name!r} is empty or taken", "give every node a name of its own")
    devices = range(whole("gpu", cells[3], MAX_DEVICES_PER_NODE))
    return Node(
        node_id=name,
        devices=tuple(
            Device(device_id=f"{name}/{i}", node_id=name, index=i, kind=DeviceKind.CUDA, memory_bytes=0, model=model)
            for i in devices
        ),
        cpus=whole("cpu_milli", cells[1]) / 1000,
        host_memory_bytes=whole("memory_mib", cells[2]) * _MIB,
    )
