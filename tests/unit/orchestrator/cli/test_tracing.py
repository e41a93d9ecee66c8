"""`trace export`, `trace generate` and `trace replay` as people type them."""

import csv
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.traces.csv import read
from orchestrator.cli import app
from orchestrator.home import HOME_VARIABLE, Home
from orchestrator.simulation.trace_files import nodes_path
from orchestrator.store.opening import usable_store
from tests.unit.orchestrator.rig import Rig


def orchestrator(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home in which a study of two trials was run after one of three."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    home = Home(tmp_path)
    home.prepare()
    with closing(usable_store(home)) as store:
        rig = Rig(store=store, start_at=1000.0)
        for study_id, trials in (("study-1", 3), ("study-2", 2)):
            rig.submit(trials, study_id)
            rig.run(study_id)
    return home


def test_the_last_study_goes_to_standard_output(home: Home) -> None:
    done = orchestrator("trace", "export")
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert done.exit_code == 0
    assert {row["study"] for row in rows} == {"study-2"}
    assert [row["stage"] for row in rows] == ["warmup", "main"] * 2


def test_a_named_study_goes_to_a_file_with_its_nodes_beside_it(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "first.csv.gz"
    done = orchestrator("trace", "export", "study-1", "-o", str(file))
    assert done.exit_code == 0, done.output
    trace = read(file=str(file), nodes=str(nodes_path(file)))
    assert [trial.study_id for trial in trace.trials] == ["study-1"] * 3
    assert [len(node.devices) for node in trace.nodes] == [2]
    assert f"trace.file={file} trace.nodes={nodes_path(file)}" in done.stderr


def test_all_studies_are_exported_together(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "all.csv"
    assert orchestrator("trace", "export", "--all", "-o", str(file)).exit_code == 0
    assert len(read(file=str(file)).trials) == 5


def test_an_export_that_cannot_be_made_is_refused(home: Home, tmp_path: Path) -> None:
    for arguments, says in [
        (["nope"], "study=nope: no such study"),
        (["study-1", "--all"], "--all=true: name studies, or take all of them"),
        (["-o", str(tmp_path / "no" / "where.csv")], "No such file or directory; name a file in a folder"),
    ]:
        done = orchestrator("trace", "export", *arguments)
        assert (done.exit_code, says in done.stderr) == (2, True), done.output


def test_a_workload_is_generated_with_its_knobs(tmp_path: Path) -> None:
    file = tmp_path / "week.csv"
    done = orchestrator("trace", "generate", "trials=30", "nodes=2", "trace.seed=5", "-o", str(file))
    assert done.exit_code == 0, done.output
    trace = read(file=str(file), nodes=str(nodes_path(file)))
    assert (len(trace.trials), len(trace.nodes)) == (30, 2)
    again = tmp_path / "again.csv"
    orchestrator("trace", "generate", "trials=30", "nodes=2", "seed=5", "-o", str(again))
    assert again.read_bytes() == file.read_bytes()


def test_the_nodes_go_where_they_are_told_to(tmp_path: Path) -> None:
    orchestrator("trace", "generate", "trials=3", "-o", str(tmp_path / "a.csv"), "--nodes", str(tmp_path / "b.csv"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv"]


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        (["load=-1"], "trace.load=-1"),
        (["laod=1"], "laod=1: there is: trials, seed, nodes"),
        (["seed=1,2"], "sweep=2 workloads: give each knob one value"),
    ],
)
def test_knobs_that_cannot_be_are_refused(knobs: list[str], says: str) -> None:
    done = orchestrator("trace", "generate", *knobs)
    assert done.exit_code == 2
    assert says in done.stderr


def test_a_replay_that_decides_the_same_says_so(home: Home) -> None:
    done = orchestrator("trace", "replay", "study-1", "packing=best_fit", "ordering=fifo")
    assert done.exit_code == 0, done.output
    assert "decisions: 4 of 4 are the same, in the same order" in done.stdout
    assert "makespan: live 30.0 s, simulated 30.0 s (+0.0%)" in done.stdout


def test_a_replay_that_decides_otherwise_says_where(home: Home) -> None:
    with closing(usable_store(home)) as store:
        rig = Rig(store=store, start_at=5000.0)
        rig.submit(2, "study-3", share=0.5)
        rig.run("study-3")
    done = orchestrator("trace", "replay", "packing=exclusive", "ordering=fifo")
    assert done.exit_code == 1
    assert "decision 3: live main" in done.stdout
    assert "on node-a/cpu0 at 10.0 s; simulated main" in done.stdout
    assert "decisions: 2 of 3 are the same" in done.stdout


def test_several_studies_are_replayed_together(home: Home) -> None:
    done = orchestrator("trace", "replay", "study-1", "study-2")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("study-1, study-2 under ordering=fifo")
