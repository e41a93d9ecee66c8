"""A status as tables."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.control.views import status_document, studies_document
from orchestrator.interference import Bar
from orchestrator.report.live import progress_line
from orchestrator.report.progress import progress_in, progress_of
from orchestrator.report.status import print_status, print_studies
from orchestrator.report.times import when
from orchestrator.schema import CommandKind
from orchestrator.service.sharing_file import Sharing
from tests.unit.orchestrator.control.rigs import Rig


@pytest.fixture(scope="module")
def packed() -> Rig:
    """Two trials run, three wait, and a pause has not taken effect yet."""
    rig = Rig()
    study_id = rig.submit()
    rig.until(lambda: len(rig.loop.state.bundles) == 2)
    rig.cycle(5)
    rig.ask(CommandKind.PAUSE, f"{study_id}-0004")
    return rig


def printed(rig: Rig, later_s: float = 0.0, width: int = 100) -> str:
    buffer = io.StringIO()
    print_status(status_document(rig.store, "", rig.at + later_s), Console(file=buffer, width=width))
    return buffer.getvalue()


def test_it_fits_100_columns_and_no_id_is_cut(packed: Rig) -> None:
    text = printed(packed)
    assert max(len(line) for line in text.splitlines()) <= 100
    (study,) = packed.store.studies()
    assert f"trials of {study.study_id} (as targets: STUDY-NNNN, or N of the last study)" in text
    for number in range(5):
        assert f" #{number} " in text


def test_it_shows_who_serves_the_residents_and_the_queue_in_order(packed: Rig) -> None:
    text = printed(packed)
    assert "served by process 1 on here, term 1: cluster=ray ordering=fifo" in text
    assert "node-a/cpu1" in text
    assert ", until " in text
    assert text.index(" #0 ") < text.index(" #2 ") < text.index(" #3 ")
    assert "waiting to take effect: pause" in text


def test_a_silent_leader_is_said_to_be_silent(packed: Rig) -> None:
    text = " ".join(printed(packed, later_s=60.0).split())
    assert "no service runs (process 1 on here is silent since 60 s): start one with `orchestrator serve`" in text


@pytest.mark.parametrize("columns", [60, 80])
def test_the_list_of_studies_never_cuts_an_id(packed: Rig, columns: int) -> None:
    buffer = io.StringIO()
    print_studies(studies_document(packed.store, packed.at), Console(file=buffer, width=columns))
    (study,) = packed.store.studies()
    assert study.study_id in buffer.getvalue()


def test_a_study_that_nobody_goes_on_with_is_told_from_one_that_is_served(packed: Rig) -> None:
    def listed(later_s: float) -> str:
        buffer = io.StringIO()
        print_studies(studies_document(packed.store, packed.at + later_s), Console(file=buffer, width=160))
        return buffer.getvalue().rstrip()

    assert listed(0.0).endswith(" running")
    assert listed(60.0).endswith(" running (no service runs)")


def test_watching_shows_what_the_leader_shows(packed: Rig) -> None:
    (study,) = packed.store.studies()
    theirs = progress_of(packed.loop.state, study.study_id, packed.at)
    watched = progress_in(status_document(packed.store, study.study_id, packed.at), study.study_id, packed.at)
    assert watched.counts == {**dict.fromkeys(watched.counts, 0), **theirs.counts}
    assert watched.eta_s == pytest.approx(theirs.eta_s, abs=1.0)
    assert watched.devices == theirs.devices
    assert progress_line(replace(watched, eta_s=theirs.eta_s)) == progress_line(theirs)


def test_kinds_that_share_no_device_are_listed_with_the_reason(packed: Rig) -> None:
    bar = Bar(kinds=("grpo", "sft"), reason="too slow together", since=packed.at, until=packed.at + 60.0)
    buffer = io.StringIO()
    document = status_document(packed.store, "", packed.at, Sharing(bars=(bar,)))
    print_status(document, Console(file=buffer, width=100))
    assert f"grpo and sft share no device until {when(bar.until, packed.at)}: too slow together" in buffer.getvalue()
    assert document["service"]["sharing"]["bars"][0]["kinds"] == ["grpo", "sft"]
