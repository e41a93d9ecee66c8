"""Our own trace format: what is read is what was written, and what is broken is named by line and column."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.traces.csv import read
from cluster.traces.errors import TraceError
from orchestrator.schema import Demand, Node, Trace, TraceStage, TraceTrial
from orchestrator.schema.trace_table import NODE_COLUMNS, STAGE_COLUMNS
from orchestrator.simulation.trace_files import write_nodes, write_trials
from tests.unit.orchestrator.packing.cases import node as cuda_node

GIB = 2**30
HEADER = "study,trial,submitted_s,stage,duration_s,devices,models,stage_key,memory_gib"

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="|=\r"), min_size=1, max_size=8)
times = st.floats(0.0, 1e9)
demands = st.builds(
    Demand,
    devices=st.integers(0, 64),
    share=st.floats(0.001, 1.0),
    memory_bytes=st.integers(0, 2**48),
    cpus=st.floats(0.0, 1e4),
    host_memory_bytes=st.integers(0, 2**48),
    models=st.lists(names, max_size=3).map(tuple),
    max_nodes=st.integers(1, 8),
    kind=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=5),
    max_slowdown=st.just(0.0) | st.floats(1.0, 10.0),
)


@st.composite
def stages(draw: st.DrawFn) -> TraceStage:
    parts = draw(st.dictionaries(names, st.floats(0.0, 1e6), max_size=3))
    return TraceStage(
        name=draw(names), demand=draw(demands), duration_s=sum(parts.values()) + draw(times), key="", phases=parts
    )


@st.composite
def workloads(draw: st.DrawFn) -> list[TraceTrial]:
    """Trials in order of submission; some have the first one's first stage in common."""
    made = []
    shared = replace(draw(stages()), key="shared")
    for number, at in enumerate(sorted(draw(st.lists(times, min_size=1, max_size=5)))):
        own = tuple(draw(st.lists(stages(), min_size=1, max_size=3)))
        made.append(
            TraceTrial(
                trial_id=f"{draw(names)}-{number}",
                study_id=draw(names),
                submitted_at=at,
                stages=(shared, *own) if draw(st.booleans()) else own,
                tenant=draw(names),
                priority=draw(st.integers(-5, 5)),
            )
        )
    return made


def without_lines(trace: Trace) -> list[TraceTrial]:
    return [replace(trial, line=0) for trial in trace.trials]


def node(name: str = "a", devices: int = 4, model: str = "H100", memory_gib: int = 80, cpus: float = 8.0) -> Node:
    return cuda_node(name, devices, memory_gib=memory_gib, model=model, cpus=cpus, host_gib=64, device_name="cuda")


def trace_file(folder: Path, *rows: str, header: str = HEADER) -> str:
    path = folder / "trace.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def nodes_file(folder: Path, *nodes: Node) -> str:
    write_nodes(folder / "nodes.csv", nodes)
    return str(folder / "nodes.csv")


@settings(max_examples=60, deadline=None)
@given(trials=workloads())
def test_what_was_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, trials: list[TraceTrial]) -> None:
    path = tmp_path_factory.mktemp("trace") / "week.csv.gz"
    assert write_trials(path, trials) == len(trials)
    trace = read(file=str(path))
    assert without_lines(trace) == trials
    assert (trace.name, trace.skipped_rows) == ("week", 0)


@given(count=st.integers(0, 6), memory_gib=st.integers(0, 200), cpus=st.floats(0.0, 1e4), model=names)
@settings(max_examples=30, deadline=None)
def test_nodes_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, count: int, memory_gib: int, cpus: float, model: str
) -> None:
    folder = tmp_path_factory.mktemp("nodes")
    nodes = (node("a", count, model, memory_gib, cpus), node("b"))
    trace = read(file=trace_file(folder, "s,t,0,sft,1,1,,,0"), nodes=nodes_file(folder, *nodes))
    assert trace.nodes == nodes


def test_a_node_with_two_kinds_of_device_takes_two_rows(tmp_path: Path) -> None:
    rows = "node,devices,model,memory_gib\na,2,H100,80\na,1,T4,16\n"
    (tmp_path / "nodes.csv").write_text(rows)
    (mixed,) = read(file=trace_file(tmp_path, "s,t,0,sft,1,1,,,0"), nodes=str(tmp_path / "nodes.csv")).nodes
    assert [(d.device_id, d.model) for d in mixed.devices] == [
        ("a/cuda0", "H100"),
        ("a/cuda1", "H100"),
        ("a/cuda2", "T4"),
    ]


def test_columns_that_are_left_out_take_their_defaults(tmp_path: Path) -> None:
    (trial,) = read(file=trace_file(tmp_path, "s,t,0,sft,1,1,,,")).trials
    assert (trial.tenant, trial.priority) == ("default", 0)
    assert trial.stages[0].demand == Demand(devices=1, share=1.0, memory_bytes=0)


def test_trials_come_in_order_of_submission(tmp_path: Path) -> None:
    trace = read(file=trace_file(tmp_path, "s,late,9,sft,1,1,,,0", "s,early,3,sft,1,1,,,0"))
    assert [(trial.trial_id, trial.line) for trial in trace.trials] == [("early", 3), ("late", 2)]


def test_stages_with_equal_keys_are_one_object(tmp_path: Path) -> None:
    rows = ["s,t,0,warmup,5,1,,w,0", "s,t,0,grpo,9,1,,,0", "s,u,0,warmup,5,1,,w,0"]
    first, second = read(file=trace_file(tmp_path, *rows)).trials
    assert [stage.name for stage in first.stages] == ["warmup", "grpo"]
    assert second.stages[0] is first.stages[0]


BROKEN = [
    ("s,t,-1,sft,1,1,,,0", "submitted_s='-1'; write 0 or more"),
    ("s,t,0,sft,-3.5,1,,,0", "duration_s='-3.5'; write 0 or more"),
    ("s,t,0,sft,nan,1,,,0", "duration_s='nan'; write 0 or more"),
    ("s,t,0,sft,soon,1,,,0", "duration_s='soon'; write a number"),
    ("s,t,0,sft,1,1.5,,,0", "devices='1.5'; write a whole number"),
    ("s,t,0,sft,1,1,,,-2", "memory_gib='-2'; write 0 or more"),
    ("s,t,0,sft,1,1,,,1e300", "memory_gib='1e300'; write at most 1e+09"),
    ("s,t,0,sft,1,99999999999,,,0", "devices='99999999999'; write a whole number of at most"),
    (",t,0,sft,1,1,,,0", "study=''; write one in every row"),
    ("s,t,0,,1,1,,,0", "stage=''; write one in every row"),
    ("s,t,0,sft", "has too few cells, or too many"),
    ("s,t,0,sft,1,1,,,0,0", "has too few cells, or too many"),
    ("s,good,0,sft,1,1,,,0", "trial='good'; it is there already"),
    ("s,t,0,sft,1,1,,w,0", "stage_key='w'; it is the run of line 2"),
]


@pytest.mark.parametrize(("row", "says"), BROKEN)
def test_a_broken_row_is_named_by_file_line_column_and_value(tmp_path: Path, row: str, says: str) -> None:
    path = trace_file(tmp_path, "s,good,0,sft,2,1,,w,0", "s,other,0,sft,1,1,,,0", row)
    with pytest.raises(TraceError) as refused:
        read(file=path)
    assert str(refused.value).startswith(f"{path}:4: {says}")


@pytest.mark.parametrize("row", [row for row, _ in BROKEN])
def test_a_broken_row_can_be_counted_instead(tmp_path: Path, row: str) -> None:
    path = trace_file(tmp_path, "s,good,0,sft,2,1,,w,0", "s,other,0,sft,1,1,,,0", row)
    trace = read(file=path, skip_bad_rows=True)
    assert ([trial.trial_id for trial in trace.trials], trace.skipped_rows) == (["good", "other"], 1)


def test_a_trial_with_one_broken_stage_is_left_out_whole(tmp_path: Path) -> None:
    rows = ["s,t,0,warmup,5,1,,,0", "s,t,0,grpo,-1,1,,,0", "s,u,0,grpo,1,1,,,0"]
    trace = read(file=trace_file(tmp_path, *rows), skip_bad_rows=True)
    assert ([trial.trial_id for trial in trace.trials], trace.skipped_rows) == (["u"], 2)


def test_rows_of_one_trial_must_agree_on_what_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r":3: submitted_s='1'; it is the trial's: write '0' as on line 2"):
        read(file=trace_file(tmp_path, "s,t,0,warmup,5,1,,,0", "s,t,1,grpo,1,1,,,0"))


@pytest.mark.parametrize(
    ("column", "cell", "says"),
    [
        ("share", "0", "use a fraction above 0 and at most 1"),
        ("share", "1e-7", "use a fraction above 0 and at most 1"),
        ("share", "1.5", "write at most 1"),
        ("max_slowdown", "0.5", "use 0 for any slowdown, or at least 1, such as 1.5"),
    ],
)
def test_a_part_out_of_range_is_refused(tmp_path: Path, column: str, cell: str, says: str) -> None:
    header = f"study,trial,submitted_s,stage,duration_s,devices,{column}"
    with pytest.raises(TraceError, match=f":2: {column}='{cell}'; {says}"):
        read(file=trace_file(tmp_path, f"s,t,0,sft,1,1,{cell}", header=header))


def test_a_node_with_more_devices_than_there_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nodes.csv").write_text("node,devices,model,memory_gib\na,900000000,H100,80\n")
    with pytest.raises(TraceError, match=r"nodes\.csv:2: devices='900000000'; write a whole number of at most 1024"):
        read(file=trace_file(tmp_path, "s,t,0,sft,1,1,,,0"), nodes=str(tmp_path / "nodes.csv"))


def test_phases_longer_than_their_stage_are_refused(tmp_path: Path) -> None:
    header = "study,trial,submitted_s,stage,duration_s,devices,phases"
    with pytest.raises(TraceError, match=r"phases=.rollout=8\|learn=3'; together they are longer than duration_s=10"):
        read(file=trace_file(tmp_path, "s,t,0,grpo,10,1,rollout=8|learn=3", header=header))


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("study,trial,submitted_s,stage,devices", "no column duration_s"),
        (f"{HEADER},memory_gb", "a column is named 'memory_gb'"),
        (f"{HEADER},stage", "two columns are named 'stage'"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused_with_the_columns_there_are(
    tmp_path: Path, header: str, says: str
) -> None:
    with pytest.raises(TraceError) as refused:
        read(file=trace_file(tmp_path, header=header))
    assert f":1: {says}; the columns are {','.join(c.name for c in STAGE_COLUMNS)}" in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"nowhere\.csv: can't be read: No such file or directory"):
        read(file=str(tmp_path / "nowhere.csv"))


# Without the time: it would be in the name, and a suite in two processes ends where they read it in different seconds.
CUT_OFF = gzip.compress(b"study,trial", mtime=0)[:-6]


@pytest.mark.parametrize("content", [b"study,trial\xff\xfe\n", CUT_OFF, b"\x1f\x8bnonsense"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ("trace.csv" if content.startswith(b"study") else "trace.csv.gz")
    path.write_bytes(content)
    with pytest.raises(TraceError, match=r"trace\.csv"):
        read(file=str(path))


def test_a_file_without_trials_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="holds no trial that can be used"):
        read(file=trace_file(tmp_path))


def test_the_readme_has_every_column() -> None:
    readme = (Path(__file__).parents[4] / "cluster" / "traces" / "README.md").read_text()
    for column in (*STAGE_COLUMNS, *NODE_COLUMNS):
        assert f"| `{column.name}` |" in readme
