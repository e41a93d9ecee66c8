"""`tune packing` as people type it."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from orchestrator.cli import app, tuning
from orchestrator.home import HOME_VARIABLE
from orchestrator.simulation.tune import OBJECTIVES, Search

WORKLOAD = ["trace=synthetic", "trace.trials=30", "trace.nodes=1", "trace.gangs_part=0", "packing=best_fit,exclusive"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    return tmp_path


def tune(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["tune", "packing", *WORKLOAD, "--objective", "makespan", *arguments])


def test_the_best_is_printed_and_written_to_the_home(home: Path) -> None:
    done = tune("--trials", "3")
    assert done.exit_code == 0, done.output
    (file,) = (home / "tuned" / "packing").iterdir()
    assert yaml.safe_load(file.read_text())["name"] == file.stem
    assert file.read_text() in done.stdout
    assert "orchestrator tune packing trace=synthetic" in file.read_text()
    assert "[1/3] " in done.stderr


def test_the_file_goes_where_it_is_told_to(home: Path) -> None:
    assert tune("--trials", "1", "-o", str(home / "mine.yaml")).exit_code == 0
    assert (home / "mine.yaml").is_file()


def test_ctrl_c_keeps_the_best_so_far(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Search.run

    def interrupted(search: Search, count: int, told: object) -> None:
        real(search, 1, told)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(Search, "run", interrupted)
    done = tune("--trials", "5", "-o", str(home / "mine.yaml"))
    assert done.exit_code == 130
    assert yaml.safe_load((home / "mine.yaml").read_text())["name"] == "best_fit"
    assert "the same command goes on from here" in done.stderr


def test_ctrl_c_before_anything_was_tried_writes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(search: Search, count: int, told: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Search, "run", interrupted)
    assert tune("--trials", "5").exit_code == 130
    assert not (home / "tuned").exists()


def test_what_cannot_be_searched_is_refused(home: Path) -> None:
    done = tune("packing.taste=1")
    assert (done.exit_code, "packing.taste=1: none of the policies" in done.stderr) == (2, True)


def test_every_objective_can_be_named() -> None:
    assert {objective.value for objective in tuning.Objective} == set(OBJECTIVES)


def test_an_oversubscription_that_was_searched_is_in_the_file_and_in_the_command_that_made_it(home: Path) -> None:
    file = home / "mine.yaml"
    done = tune("interference=post_training", "--oversubscription", "1:2", "--trials", "2", "-o", str(file))
    assert done.exit_code == 0, done.output
    written = yaml.safe_load(file.read_text())
    assert 1.0 <= written["cluster"]["oversubscription"] <= 2.0
    assert written["packing"]["name"] in ("best_fit", "exclusive")
    assert "interference=post_training --oversubscription 1:2 --objective" in file.read_text()


def test_an_oversubscription_that_is_no_range_is_refused(home: Path) -> None:
    refused = tune("interference=post_training", "--oversubscription", "much")
    assert (refused.exit_code, refused.stderr.strip()) == (
        2,
        "error: --oversubscription=much: give LOW:HIGH, such as 1:2",
    )
