"""What `run`, `serve` and `resume` decide before and after anything runs."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.config import ConfigError
from orchestrator.events import RecordStudy, RecordTrial
from orchestrator.execution import resume_study
from orchestrator.home import Home
from orchestrator.schema import DeviceKind, TrialState
from orchestrator.service.serving import Interrupts
from orchestrator.state import SchedulerState
from orchestrator.state.snapshots import never_fits, pending_reason
from orchestrator.store.database import DatabaseStore
from tests.unit.orchestrator.builders import GIB, joined, study, submitted, warm_started


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.prepare()
    return home


def test_an_unknown_study_is_refused_with_those_there_are(home: Home) -> None:
    store = DatabaseStore(home.store_url)
    store.apply([RecordStudy(study=study("study-1"))])
    store.close()
    with pytest.raises(ConfigError, match="no such study; the last ones are: study-1"):
        resume_study("nope", home, "me")


@pytest.mark.parametrize(("states", "code"), [(("completed", "pruned"), 0), (("completed", "failed"), 1)])
def test_a_study_that_is_over_is_not_run_again(
    home: Home, states: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    store = DatabaseStore(home.store_url)
    ended = replace(study("study-1"), ended_at=9.0, device_kind=DeviceKind.CPU)
    store.apply([RecordStudy(study=ended)])
    for trial, state in zip(warm_started(len(states)), states, strict=True):
        store.apply([RecordTrial(trial=replace(trial, state=TrialState(state)), was=None, at=1.0)])
    store.close()
    assert resume_study("study-1", home, "me") == code
    assert "study-1 is over, nothing is left to do; see: orchestrator report study-1" in capsys.readouterr().out


def queued(memory_bytes: int = GIB, devices: int = 1, nodes: int = 1) -> SchedulerState:
    """One trial in a queue before nodes of two devices of 8 GiB."""
    state = SchedulerState(max_attempts=2)
    for node in range(nodes):
        state.handle(joined(2, f"node-{node}"))
    state.handle(submitted(1, devices=devices, memory_bytes=memory_bytes))
    return state


def test_a_demand_that_some_node_can_meet_may_wait() -> None:
    state = queued(devices=2)
    assert never_fits(state, state.trials["study-1-0000"]) == ""


def test_more_memory_than_any_device_has_is_said_with_what_there_is() -> None:
    state = queued(memory_bytes=9 * GIB)
    why = never_fits(state, state.trials["study-1-0000"])
    assert why.startswith("a device with 9.0 GiB, the largest has 8.0")
    assert pending_reason(state, "study-1-0000", {}) == f"{why}: it can't start here"


def test_a_gang_larger_than_any_node_is_said_with_what_there_is() -> None:
    state = queued(devices=3, nodes=2)
    assert "3 devices on one node, and no node has more than 2" in never_fits(state, state.trials["study-1-0000"])


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    interrupts = Interrupts()
    with interrupts.listening():
        yield interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request(interrupts: Interrupts, number: signal.Signals) -> None:
    assert not interrupts.requested
    signal.raise_signal(number)
    assert interrupts.requested


def test_the_second_signal_interrupts(interrupts: Interrupts) -> None:
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
