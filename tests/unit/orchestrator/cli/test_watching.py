"""Watching to the end, over operations on a store that a simulated cluster serves."""

from pathlib import Path

import pytest

from cluster.simulated import Script
from orchestrator.cli import watching
from orchestrator.cli.watching import follow
from orchestrator.control.direct import DirectOperations
from orchestrator.events import Launch
from orchestrator.home import Home
from orchestrator.schema import CommandKind
from tests.unit.orchestrator.control.rigs import Rig, steady


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_WATCH_EVERY_S", 0.0)


def served(rig: Rig, home: Path, monkeypatch: pytest.MonkeyPatch) -> DirectOperations:
    """Between two looks the cluster does something."""

    def go_on(_: float) -> None:
        rig.cycle(20)

    monkeypatch.setattr(watching.time, "sleep", go_on)
    return DirectOperations(rig.store, Home(home), "anna")


def test_a_study_is_watched_until_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = Rig()
    study_id = rig.submit()
    assert follow(served(rig, tmp_path, monkeypatch), study_id) == 0
    assert "5 completed" in capsys.readouterr().out.splitlines()[-1]


def test_a_failed_trial_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(launch: Launch) -> Script:
        return Script(duration_s=2.0, raises="boom") if launch.stage.name != "warmup" else steady(launch)

    rig = Rig(script=script)
    assert follow(served(rig, tmp_path, monkeypatch), rig.submit()) == 1


def test_an_interrupt_leaves_the_study_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = Rig()
    study_id = rig.submit()
    asked = served(rig, tmp_path, monkeypatch)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", interrupt)
    assert follow(asked, study_id) == 130
    assert f"orchestrator watch {study_id}" in capsys.readouterr().err
    assert [command.kind for command in rig.store.pending_commands()] == [CommandKind.SUBMIT]


def test_a_study_that_nobody_serves_is_said_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = Rig()
    study_id = rig.submit()
    rig.store.release_lease(rig.term, rig.at)
    assert follow(served(rig, tmp_path, monkeypatch), study_id) == 0
    assert capsys.readouterr().err.count("no service runs") == 1
