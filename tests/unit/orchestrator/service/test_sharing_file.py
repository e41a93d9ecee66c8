"""What the leader has measured, for whoever looks."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.home import Home
from orchestrator.interference import Interference, Rules
from orchestrator.service.sharing_file import SharingFile, pairs_for_report, read_sharing
from tests.unit.orchestrator.builders import study
from tests.unit.orchestrator.interference.truths import slices

HALF = 0.5


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.prepare()
    return made


def measured() -> Interference:
    """Two of grpo on one device, who get through less than one after the other."""
    found = Interference(Rules(retry_s=100.0))
    for neighbours in ((), (("grpo", HALF),)):
        for made in slices("grpo", neighbours, 20, noise=0.05):
            found.model.observe(made)
    found.judge({}, 50.0)
    return found


def test_what_was_measured_is_read_as_it_was_written(home: Home) -> None:
    file, found = SharingFile(home), measured()
    file.keep_up(found)
    sharing = read_sharing(home, 60.0)
    assert sharing.bars == found.bars
    assert sharing.conflicts() == found.conflicts()
    (pair,) = sharing.pairs
    assert pair["throughput"] == found.table()[0].throughput
    assert sharing.bar_between("grpo", "grpo") == found.bars[0]
    assert sharing.bar_between("grpo", "sft") is None


def test_a_bar_that_is_over_does_not_hold(home: Home) -> None:
    SharingFile(home).keep_up(measured())
    assert read_sharing(home, 150.0).bars == ()


def test_a_new_leader_knows_nothing(home: Home) -> None:
    SharingFile(home).keep_up(measured())
    SharingFile(home)
    assert not read_sharing(home, 60.0).pairs


def test_where_nobody_has_led_nothing_is_known(home: Home) -> None:
    assert not read_sharing(home, 0.0).pairs


def test_it_is_written_when_it_was_judged_again_and_not_else(home: Home) -> None:
    file, found = SharingFile(home), measured()
    file.keep_up(found)
    home.sharing_path.unlink()
    file.keep_up(found)
    assert not home.sharing_path.exists()
    found.judge({}, 55.0)
    file.keep_up(found)
    assert home.sharing_path.exists()


def test_a_study_that_is_over_keeps_what_was_known_at_its_end(home: Home) -> None:
    SharingFile(home).keep_up(measured())
    running = study("s")
    assert len(pairs_for_report(home, running, 60.0)) == 1
    folder = home.report_folder("s")
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps({"sharing": []}))
    assert pairs_for_report(home, replace(running, ended_at=55.0), 60.0) == []
