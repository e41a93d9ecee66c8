"""`orchestrator simulate` as it is called."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.home import HOME_VARIABLE
from tests.unit.orchestrator.simulation.workloads import PODS, files


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


def simulate(*arguments: str):
    return CliRunner().invoke(app, ["simulate", *arguments, "--jobs", "1"])


def test_json_is_a_list_with_one_object_for_each_policy_and_seed(tmp_path: Path) -> None:
    done = simulate(*files(tmp_path), "packing=best_fit,exclusive", "seed=range(0,2)", "--format", "json")
    assert done.exit_code == 0
    rows = json.loads(done.stdout)
    assert [(row["policy"], row["seed"]) for row in rows] == [
        ("best_fit", 0), ("best_fit", 1), ("exclusive", 0), ("exclusive", 1),
    ]  # fmt: skip
    assert rows[0]["makespan_s"] == 340.0
    assert rows[0]["unallocated_share_at_100"] is None


def test_the_protocol_of_arrivals_only_gives_unallocated_shares(tmp_path: Path) -> None:
    done = simulate(*files(tmp_path), "trace.protocol=arrivals_only", "--format", "json")
    (row,) = json.loads(done.stdout)
    assert 0.0 <= row["unallocated_share_at_130"] <= row["unallocated_share_at_100"] <= 100.0


def test_what_was_swept_stands_with_each_result(tmp_path: Path) -> None:
    done = simulate("-m", *files(tmp_path), "cluster.nodes=1,2", "cluster.model=T4", "--format", "json")
    rows = json.loads(done.stdout)
    assert [row["overrides"] for row in rows] == [{"cluster.nodes": "1"}, {"cluster.nodes": "2"}]
    assert rows[0]["makespan_s"] > 0


def test_more_nodes_are_like_those_that_the_trace_came_from(tmp_path: Path) -> None:
    pods = PODS + "e,1000,1024,1,1000,T4,LS,Running,20,60,20\n"
    done = simulate(*files(tmp_path, pods), "cluster.nodes=1,2,3", "--format", "json")
    first, second, third = json.loads(done.stdout)
    assert first["completed"] == third["completed"] == 5
    assert first["jct_mean_s"] > second["jct_mean_s"] > third["jct_mean_s"]


def test_two_that_start_in_one_second_leave_two_folders(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.simulation.command.time.time", lambda: 1e9)
    for _ in range(2):
        assert simulate(*files(tmp_path), "--no-track").exit_code == 0
    assert len(list(home.glob("simulations/alibaba2023-*/results.json"))) == 2


def test_progress_goes_to_standard_error(tmp_path: Path) -> None:
    done = simulate(*files(tmp_path), "--format", "json")
    assert "[1/1] best_fit: simulated in" in done.stderr


def test_json_leaves_no_files_unless_a_folder_is_named(tmp_path: Path, home: Path) -> None:
    simulate(*files(tmp_path), "--format", "json")
    assert not home.exists()
    simulate(*files(tmp_path), "--format", "json", "--out", str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "results.json").read_text())[0]["policy"] == "best_fit"
    assert not home.exists()


def test_the_table_and_the_page_say_what_came_of_it(tmp_path: Path, home: Path) -> None:
    done = simulate(*files(tmp_path), "packing=best_fit,exclusive", "--no-track")
    assert done.exit_code == 0
    assert "experiments per GPU-hour" in done.stdout
    assert "makespan" in done.stdout
    (page,) = home.glob("simulations/alibaba2023-*/simulation.html")
    text = page.read_text()
    assert "devices held" in text
    assert "exclusive" in text
    assert "<script src=" not in text


def test_a_dry_run_says_what_would_run_and_runs_nothing(tmp_path: Path) -> None:
    done = simulate(*files(tmp_path), "seed=range(0,3)", "--dry-run")
    assert done.exit_code == 0
    assert done.stdout.count("best_fit") == 3
    # 0.5 x 100 + 0.5 x 200 + 2 x 100 + 40 GPU-seconds.
    assert "0.1" in done.stdout
    assert "simulated in" not in done.stderr


def test_the_composed_config_can_be_printed(tmp_path: Path) -> None:
    done = simulate(*files(tmp_path), "--cfg", "job")
    assert "reader: cluster.traces.alibaba2023:read" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["packing=best_fot"], "error: packing=best_fot: did you mean best_fit"),
        (["cluster.nodes=many"], "error: cluster.nodes=many"),
        (["trace.protocol=backwards"], "error: trace.protocol=backwards: there is: replay, arrivals_only"),
        (["nonsense"], "error: override='nonsense'"),
    ],
)
def test_nonsense_is_exit_code_2_with_one_line(overrides: list[str], says: str, tmp_path: Path) -> None:
    done = simulate(*files(tmp_path), *overrides)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


def test_a_broken_row_is_exit_code_2_with_file_and_line(tmp_path: Path) -> None:
    done = simulate(*files(tmp_path, PODS + "e,1,1,1,1000,,LS,Running,-1,2,\n"), "--format", "json")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "pods.csv:6: creation_time=-1 is negative" in done.stderr


def test_broken_rows_can_be_left_out_and_are_counted(tmp_path: Path) -> None:
    rows = "e,1,1,1,1000,,LS,Running,-1,2,\nf,1,1,9,1000,,LS,Running,1,2,1\n"
    done = simulate(*files(tmp_path, PODS + rows), "--format", "json", "--skip-bad-rows")
    (row,) = json.loads(done.stdout)
    assert (row["completed"], row["skipped_rows"]) == (4, 2)


def test_a_folder_that_cannot_be_written_is_exit_code_2_after_the_results(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    done = simulate(*files(tmp_path), "--format", "json", "--out", str(tmp_path / "taken"))
    assert done.exit_code == 2
    assert json.loads(done.stdout)
    assert "--out=" in done.stderr
