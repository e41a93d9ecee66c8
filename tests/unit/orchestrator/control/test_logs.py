"""What a trial printed, in parts."""

from pathlib import Path

import pytest

from orchestrator.config import ConfigError
from orchestrator.control.logs import CHUNK_BYTES, log_chunk
from orchestrator.home import Home
from orchestrator.schema import TrialState
from tests.unit.orchestrator.control.rigs import Rig


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.prepare()
    return home


@pytest.fixture
def rig() -> Rig:
    """A study that is over: every trial has a warm-up and a stage of its own in the ledger."""
    rig = Rig()
    rig.finish(rig.submit())
    return rig


def bundles(rig: Rig, number: int) -> list[str]:
    (study,) = rig.store.studies()
    return [
        a.bundle_id for a in rig.store.allocations(study.study_id) if f"{study.study_id}-{number:04d}" in a.trial_ids
    ]


def read_all(rig: Rig, home: Home, number: int) -> str:
    (study,) = rig.store.studies()
    trial = rig.store.trial(f"{study.study_id}-{number:04d}")
    text, bundle_id, offset = "", "", 0
    for _ in range(20):
        chunk = log_chunk(rig.store, home, trial, bundle_id, offset)
        assert len(chunk.text.encode()) <= CHUNK_BYTES
        text, bundle_id, offset = text + chunk.text, chunk.bundle_id, chunk.offset
        if chunk.over:
            return text
    raise AssertionError("it doesn't end")


def write(home: Home, bundle_id: str, data: bytes) -> None:
    (home.root / "logs" / f"{bundle_id}.log").write_bytes(data)


def test_the_logs_of_its_runs_follow_each_other(rig: Rig, home: Home) -> None:
    for name, bundle_id in zip(("warm-up\n", "main\n"), bundles(rig, 3), strict=True):
        write(home, bundle_id, name.encode())
    assert read_all(rig, home, 3) == "warm-up\nmain\n"


def test_a_large_log_comes_in_bounded_parts_that_split_no_character(rig: Rig, home: Home) -> None:
    printed = "é≤" * CHUNK_BYTES
    write(home, bundles(rig, 3)[1], printed.encode())
    assert read_all(rig, home, 3) == printed


def test_what_is_no_text_is_shown_as_far_as_it_can_be(rig: Rig, home: Home) -> None:
    write(home, bundles(rig, 3)[1], b"a\xff\xc3")
    assert read_all(rig, home, 3) == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"


def test_logs_that_are_not_on_this_machine_are_empty(rig: Rig, home: Home) -> None:
    assert read_all(rig, home, 3) == ""


@pytest.mark.parametrize("bundle_id", ["../store", "/etc/passwd", "nobody"])
def test_only_the_trials_own_bundles_are_read(rig: Rig, home: Home, bundle_id: str) -> None:
    (study,) = rig.store.studies()
    with pytest.raises(ConfigError, match="no such run"):
        log_chunk(rig.store, home, rig.store.trials(study.study_id)[0], bundle_id, 0)


@pytest.mark.parametrize("offset", [-1, 10**6, 2**70])
def test_an_offset_that_is_none_does_no_harm(rig: Rig, home: Home, offset: int) -> None:
    (study,) = rig.store.studies()
    last = bundles(rig, 0)[-1]
    write(home, last, b"all")
    chunk = log_chunk(rig.store, home, rig.store.trials(study.study_id)[0], last, offset)
    assert chunk.text == ("all" if offset < 0 else "")


def test_a_running_trials_log_goes_on_where_it_was_left(home: Home) -> None:
    rig = Rig()
    study_id = rig.submit()
    rig.cycle(3)
    trial = rig.store.trials(study_id)[0]
    assert trial.state is TrialState.RUNNING
    (bundle_id,) = bundles(rig, 0)
    write(home, bundle_id, b"first \xc3")
    chunk = log_chunk(rig.store, home, trial, "", 0)
    assert (chunk.text, chunk.over) == ("first ", False)
    write(home, bundle_id, b"first \xc3\xa9")
    chunk = log_chunk(rig.store, home, trial, chunk.bundle_id, chunk.offset)
    assert (chunk.text, chunk.over) == ("é", False)
    chunk = log_chunk(rig.store, home, trial, chunk.bundle_id, chunk.offset)
    assert (chunk.text, chunk.over) == ("", False)
