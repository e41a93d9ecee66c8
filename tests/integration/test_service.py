"""`serve`, `submit` and the commands, as processes: who leads, who takes over, and what people can do meanwhile.

The stages are `tests.faults.payload`: short steps, nothing heavy to import, so that every second here is the service's.
"""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.schema import TrialState
from tests.faults import checks
from tests.faults.harness import Plan, torment
from tests.faults.site import STEPS, Site

TAKEOVER_S = 15.0
EFFECT_S = 2.0


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # another run on this machine has devices of its own here
    home = tmp_path / "home"
    home.mkdir()
    site = Site(home)
    yield site
    for process in site.service.processes:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGCONT)
    site.close()


@pytest.mark.slow
def test_a_study_submitted_while_nobody_serves_is_run_by_the_next_serve(site: Site) -> None:
    study_id = site.submit(steps=20)
    assert {trial.state for trial in site.store.trials(study_id)} == {TrialState.QUEUED}
    assert "no service" in site.command("status")[1].lower() or "none runs" in site.command("status")[1]
    site.service.keep_up()
    site.wait_until_over()
    assert {trial.state for trial in site.trials()} == {TrialState.COMPLETED}


@pytest.mark.slow
def test_a_standby_takes_over_from_a_killed_leader(site: Site) -> None:
    site.submit()
    site.service.keep_up()
    leader = site.leader()
    site.wait_until_running(0, 1)
    term = site.store.lease().term
    bundles = {line.bundle_id for line in site.store.allocations()}
    leader.kill()
    leader.wait()
    # It leads, and has launched: a line of the ledger that was not there before.
    taken_s = site.wait(lambda: any(line.bundle_id not in bundles for line in site.store.allocations()))
    assert site.store.lease().term == term + 1
    assert taken_s <= TAKEOVER_S
    site.wait_until_over()
    assert {trial.state for trial in site.trials()} == {TrialState.COMPLETED}


def test_a_leader_that_was_paused_can_not_act_after_its_successor_took_over(site: Site) -> None:
    site.submit()
    site.service.keep_up()
    leader = site.leader()
    site.wait_until_running(0, 1)
    term = site.store.lease().term
    os.kill(leader.pid, signal.SIGSTOP)
    taken_s = site.wait(lambda: site.store.lease().term == term + 1)
    assert taken_s <= TAKEOVER_S
    # Its successor ends it, unless it sees first that its term is over: then it lets go, and stands by.
    os.kill(leader.pid, signal.SIGCONT)
    site.wait_until_over()
    lease = site.store.lease()
    assert lease.holder is not None
    assert (lease.term, lease.holder.pid != leader.pid) == (term + 1, True)
    assert {trial.state for trial in site.trials()} == {TrialState.COMPLETED}
    checks.no_device_is_held_twice(site.store.allocations())
    checks.no_output_is_lost_or_half_written(site.home, site.trials())


@pytest.mark.slow
def test_a_service_that_is_told_to_stop_checkpoints_what_runs(site: Site) -> None:
    site.submit()
    site.service.keep_up()
    site.leader()
    site.wait_until_running(0, 1)
    site.service.stop()
    assert {trial.state for trial in site.trials()} == {TrialState.QUEUED}
    assert all(line.closed_at is not None for line in site.store.allocations())
    assert site.store.lease().holder is None
    assert {trial.preemptions for trial in site.trials()} == {0}


def test_commands_take_effect_within_two_seconds(site: Site) -> None:
    site.submit()
    site.service.keep_up()
    site.leader()
    site.wait_until_running(0, 1)
    first = site.trials()[0].trial_id

    def effect_s(command: str, *arguments: str) -> float:
        code, said = site.command(command, first, *arguments)
        assert code == 0, said
        answered = max(_answered(site), key=lambda c: c.command_id)
        assert answered.answered_at is not None
        return answered.answered_at - answered.at

    assert effect_s("pause") <= EFFECT_S
    assert site.store.trial(first).state is TrialState.PAUSED
    assert effect_s("resume") <= EFFECT_S
    site.wait_until_running(0)
    assert effect_s("clone", "optimizer.lr=5e-4", "--warm") <= EFFECT_S
    assert effect_s("extend", "--max-steps", str(STEPS + 50)) <= EFFECT_S
    assert site.store.trial(first).variant.stages[-1].budget_steps == STEPS + 50
    assert effect_s("cancel") <= EFFECT_S
    assert effect_s("retry") <= EFFECT_S
    site.wait_until_over()
    assert {trial.state for trial in site.trials()} == {TrialState.COMPLETED}


def _answered(site: Site) -> list:
    found = []
    for command_id in range(1, 50):
        try:
            found.append(site.store.command(command_id))
        except KeyError:
            break
    return found


@pytest.mark.slow
def test_status_says_of_every_queued_trial_why_and_until_when_it_waits(site: Site) -> None:
    site.submit(trials=4)
    site.service.keep_up()
    site.leader()
    site.wait_until_running(0, 1)
    code, said = site.command("status", "--format", "json")
    assert code == 0, said
    queued = [trial for trial in json.loads(said)["trials"] if trial["state"] == "queued"]
    assert len(queued) == 2
    for trial in queued:
        assert trial["why"]
        assert trial["expected_start_at"] < trial["expected_end_at"]
    assert "waits" in site.command("explain", queued[0]["id"])[1]


@pytest.mark.slow
def test_what_a_trial_prints_can_be_read(site: Site) -> None:
    site.submit(steps=20)
    site.service.keep_up()
    site.wait_until_over()
    code, said = site.command("logs", site.trials()[0].trial_id)
    assert code == 0
    assert "step 20 of 20" in said


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_a_few_kills_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    home = tmp_path / "home"
    outcome = torment(Plan(kills=6, seed=1, trials=4, steps=40), home)
    assert sum(outcome.killed.values()) == 6
    assert (
        checks.all_of_them(home, outcome.study, outcome.trials) < 0.1
    )  # of so short a run; see the record for long ones
