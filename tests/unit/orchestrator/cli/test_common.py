"""Commands and their answers, on a real store; whoever answers is the test."""

import time
from pathlib import Path

import pytest
import typer

from orchestrator.cli import common
from orchestrator.cli.common import carry_out, refusals
from orchestrator.config import ConfigError
from orchestrator.control.direct import DirectOperations
from orchestrator.control.operations import Forbidden
from orchestrator.events import RecordAnswer, RecordStudy, RecordTrial
from orchestrator.home import Home
from orchestrator.ports import StoreUnavailable
from orchestrator.schema import CommandKind, Holder
from orchestrator.service.rooms import service_config
from orchestrator.store.memory import MemoryStore
from tests.unit.orchestrator.control.rigs import composed


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    submission = composed("study=single")
    study = submission.new_study(time.time())
    store.apply([RecordStudy(study=study)])
    store.apply([RecordTrial(trial=trial, was=None, at=0.0) for trial in submission.trials(study)])
    return store


@pytest.fixture
def asked(store: MemoryStore, tmp_path: Path) -> DirectOperations:
    return DirectOperations(store, Home(tmp_path), "anna")


def target(store: MemoryStore) -> str:
    return store.studies()[0].study_id


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_an_answer_is_printed_and_a_refusal_is_exit_code_1(
    ok: bool, code: int, store: MemoryStore, asked: DirectOperations, capsys: pytest.CaptureFixture[str]
) -> None:
    command_id = asked.command(CommandKind.PAUSE, target(store))
    store.apply([RecordAnswer(command_id=command_id, at=1.0, ok=ok, answer="1 paused")])
    assert carry_out(asked, [(target(store), command_id)]) == code
    printed = capsys.readouterr()
    assert "1 paused" in (printed.out if ok else printed.err)


def test_without_a_service_a_command_is_queued_and_that_is_said(
    store: MemoryStore, asked: DirectOperations, capsys: pytest.CaptureFixture[str]
) -> None:
    command_id = asked.command(CommandKind.PAUSE, target(store))
    assert carry_out(asked, [(target(store), command_id)]) == 0
    assert "no service runs: it is queued" in capsys.readouterr().out
    assert store.command(command_id).author == "anna"


def test_a_service_that_takes_its_time_is_waited_for_up_to_a_bound(
    store: MemoryStore,
    asked: DirectOperations,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(common, "ANSWER_TIMEOUT_S", 1.5)
    config = service_config(composed("study=single").config)
    store.take_lease(store.lease(), Holder(host="h", pid=1, started_at=0.0), config, time.time())
    command_id = asked.command(CommandKind.PAUSE, target(store))
    assert carry_out(asked, [(target(store), command_id)]) == 0
    assert "no answer within" in capsys.readouterr().out


def test_whether_a_service_runs_is_asked_once_for_many_commands(
    store: MemoryStore, asked: DirectOperations, capsys: pytest.CaptureFixture[str]
) -> None:
    queued = [(target(store), asked.command(CommandKind.PAUSE, target(store))) for _ in range(20)]
    began = time.monotonic()
    assert carry_out(asked, queued) == 0
    assert time.monotonic() - began < 10.0
    assert capsys.readouterr().out.count("it is queued") == 20


@pytest.mark.parametrize("error", [ConfigError("a", 1, "b"), Forbidden("no"), StoreUnavailable("away")])
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as exited, refusals():
        raise error
    assert exited.value.exit_code == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_an_interrupt_is_130() -> None:
    with pytest.raises(typer.Exit) as exited, refusals():
        raise KeyboardInterrupt
    assert exited.value.exit_code == 130
