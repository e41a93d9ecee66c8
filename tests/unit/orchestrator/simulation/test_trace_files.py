"""A trace file is whole or not there, equal for equal traces, and refuses what it couldn't give back."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.schema import Demand, TraceStage, TraceTrial
from orchestrator.simulation.trace_files import nodes_path, write_trials

STAGE = TraceStage(name="sft", demand=Demand(devices=1, share=1.0, memory_bytes=0), duration_s=1.0)
TRIAL = TraceTrial(trial_id="a", study_id="s", submitted_at=0.0, stages=(STAGE,))


def breaks_off() -> Iterator[TraceTrial]:
    yield TRIAL
    raise RuntimeError("half-way")


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz"])
def test_a_file_that_could_not_be_finished_leaves_the_old_one_and_nothing_else(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        write_trials(path, breaks_off())
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(name, b"old")]


def test_equal_traces_are_equal_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a.csv.gz", tmp_path / "b.csv.gz"]
    for path in paths:
        write_trials(path, [TRIAL])
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("trial", "says"),
    [
        (replace(TRIAL, stages=(replace(STAGE, demand=replace(STAGE.demand, models=("A|B",))),)), r"model 'A\|B'"),
        (replace(TRIAL, stages=(replace(STAGE, phases={"": 1.0}),)), "phase ''"),
        (replace(TRIAL, study_id="s\r"), "must not have a carriage return"),
    ],
)
def test_a_name_that_would_read_as_something_else_is_refused(tmp_path: Path, trial: TraceTrial, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        write_trials(tmp_path / "trace.csv", [trial])


def test_the_nodes_of_a_packed_file_lie_beside_it() -> None:
    assert nodes_path(Path("out/week.csv.gz")) == Path("out/week.nodes.csv")
