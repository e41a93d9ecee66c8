"""Documents of a store that a scheduling loop serves."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.control.direct import DirectOperations
from orchestrator.control.outlook import NOBODY_SERVES, outlook
from orchestrator.control.views import report_document, status_document, studies_document
from orchestrator.events import RecordAllocation, RecordDevices, RecordStudy, RecordTrial
from orchestrator.home import Home
from orchestrator.schema import CommandKind, DeviceKind, TrialState
from orchestrator.store.memory import MemoryStore
from tests.unit.orchestrator.builders import device
from tests.unit.orchestrator.control.rigs import OVERRIDES, STEP_S, Rig, by_number, composed


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_status_is_plain_json(rig: Rig) -> None:
    study_id = rig.submit()
    rig.cycle(50)
    document = status_document(rig.store, study_id, rig.at)
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_without_a_service_every_trial_waits_for_one(rig: Rig) -> None:
    study_id = rig.submit()
    document = status_document(rig.store, study_id, rig.at + 11.0)
    assert not document["service"]["served"]
    assert {trial["why"] for trial in document["trials"]} == {NOBODY_SERVES}
    assert {trial["expected_start_at"] for trial in document["trials"]} == {None}


def test_a_leader_is_named_with_its_policies(rig: Rig) -> None:
    service = status_document(rig.store, rig.submit(), rig.at + 2.0)["service"]
    assert service["leader"] == {"host": "here", "pid": 1, "term": 1, "beat_age_s": 2.0}
    assert (service["ordering"], service["packing"]) == ("fifo", "best_fit")


def test_devices_tell_who_sits_on_them(rig: Rig) -> None:
    study_id = rig.submit()
    rig.cycle(20)
    first, second = status_document(rig.store, study_id, rig.at)["devices"]
    (resident,) = first["residents"]
    assert (resident["stage"], resident["numbers"]) == ("warmup", [0, 1, 2, 3, 4])
    assert 0.0 < resident["progress"] < 1.0
    assert (first["free_share"], second["residents"]) == (0.0, [])


def test_before_anything_ran_nobody_can_say_when_and_that_is_the_reason(rig: Rig) -> None:
    study_id = rig.submit()
    rig.cycle()
    waiting = by_number(status_document(rig.store, study_id, rig.at)["trials"])[1]
    assert waiting["expected_end_at"] is None
    assert "which trial 0 runs for all that share it" in waiting["why"]
    assert "nobody can say when" in waiting["why"]


def test_every_queued_trial_has_a_place_a_reason_and_times(rig: Rig) -> None:
    study_id = rig.submit()
    rig.until(lambda: len(rig.loop.state.bundles) == 2)
    rig.cycle(5)
    trials = status_document(rig.store, study_id, rig.at)["trials"]
    queued = [trial for trial in trials if trial["state"] == "queued"]
    assert [trial["position"] for trial in queued] == [1, 2, 3]
    assert all("1 device(s) with share 1 free" in trial["why"] for trial in queued)
    assert all(rig.at < trial["expected_start_at"] < trial["expected_end_at"] for trial in queued)
    assert [trial["position"] for trial in trials if trial["state"] == "running"] == [None, None]


def test_on_a_steady_cluster_what_is_expected_comes_true_within_a_step(rig: Rig) -> None:
    study_id = rig.submit()
    rig.until(lambda: len(rig.loop.state.bundles) == 2)
    rig.cycle(5)
    expected = status_document(rig.store, study_id, rig.at)
    rig.finish(study_id)
    for trial in rig.store.trials(study_id):
        row = by_number(expected["trials"])[trial.number]
        assert row["expected_end_at"] == pytest.approx(trial.ended_at, abs=STEP_S)
        if row["expected_start_at"] is not None:
            began = min(a.opened_at for a in rig.store.allocations(study_id) if a.trial_ids == (trial.trial_id,))
            assert row["expected_start_at"] == pytest.approx(began, abs=STEP_S)
    assert expected["studies"][0]["eta_at"] == pytest.approx(rig.store.study(study_id).ended_at, abs=STEP_S)


def test_the_report_says_that_the_expectations_came_true(rig: Rig) -> None:
    study_id = rig.submit()
    rig.finish(study_id)
    eta = report_document(rig.store, rig.store.study(study_id), rig.at)["eta"]
    assert eta["predictions"] >= 3
    assert eta["end"]["count"] == eta["predictions"]
    assert eta["start"]["p90_s"] <= STEP_S
    assert eta["end"]["p90_s"] <= STEP_S


def test_a_view_expects_what_the_leader_expects(rig: Rig) -> None:
    study_id = rig.submit()
    rig.until(lambda: rig.completed(study_id) == 2)
    seen = outlook(rig.store, rig.at)
    for key, record in seen.state.stages.items():
        theirs = rig.loop.state.durations.expected_s(record.stage)
        assert seen.state.durations.expected_s(record.stage) == pytest.approx(theirs, rel=0.02), key


def test_a_preempted_stage_is_expected_to_take_what_is_left_of_it(rig: Rig) -> None:
    study_id = rig.submit()
    rig.until(lambda: rig.completed(study_id) == 2)
    rig.cycle(40)
    paused = next(t.trial_id for t in rig.store.trials(study_id) if t.state is TrialState.RUNNING)
    rig.ask(CommandKind.PAUSE, paused)
    rig.until(lambda: rig.store.trial(paused).state is TrialState.PAUSED)
    rig.ask(CommandKind.RESUME, paused)
    rig.cycle()
    expected = by_number(status_document(rig.store, study_id, rig.at)["trials"])
    rig.finish(study_id)
    for trial in rig.store.trials(study_id)[2:]:
        assert expected[trial.number]["expected_end_at"] == pytest.approx(trial.ended_at, abs=2 * STEP_S)


def test_an_extended_trial_is_expected_to_take_what_its_checkpoint_leaves(rig: Rig, tmp_path: Path) -> None:
    study_id = rig.submit()
    rig.finish(study_id)
    asked = DirectOperations(rig.store, Home(tmp_path), "anna")
    for number in (0, 1, 2):
        asked.extend(f"{study_id}-{number:04d}", 100)
    rig.cycle(3)
    expected = by_number(status_document(rig.store, study_id, rig.at)["trials"])
    assert expected[2]["state"] == "queued"
    rig.finish(study_id)
    for trial in rig.store.trials(study_id)[:3]:
        assert trial.ended_at - rig.store.allocations(study_id)[-1].opened_at < 61 * STEP_S
        assert expected[trial.number]["expected_end_at"] == pytest.approx(trial.ended_at, abs=STEP_S)


def test_a_trial_can_be_asked_for_alone(rig: Rig) -> None:
    study_id = rig.submit()
    document = status_document(rig.store, f"{study_id}-0002", rig.at)
    assert [trial["number"] for trial in document["trials"]] == [2]
    assert [study["id"] for study in document["studies"]] == [study_id]


def test_no_target_shows_what_is_open_and_the_last_study_if_nothing_is(rig: Rig) -> None:
    first = rig.submit()
    rig.finish(first)
    assert [study["id"] for study in status_document(rig.store, "", rig.at)["studies"]] == [first]
    second = rig.submit()
    assert [study["id"] for study in status_document(rig.store, "", rig.at)["studies"]] == [second]


def test_an_empty_store_has_a_status() -> None:
    document = status_document(MemoryStore(), "", 0.0)
    assert (document["studies"], document["trials"], document["service"]["leader"]) == ([], [], None)


def test_commands_that_wait_are_listed(rig: Rig) -> None:
    study_id = rig.submit()
    rig.cycle(20)
    rig.ask(CommandKind.PAUSE, study_id)
    (command,) = status_document(rig.store, study_id, rig.at + 3.0)["commands"]
    assert (command["kind"], command["author"], command["age_s"]) == ("pause", "anna", 3.0)


def test_a_tenant_at_its_limit_is_the_reason_why_its_trials_wait() -> None:
    tenants = {"default": {"weight": 1.0, "quota": 1.0, "borrowing_limit": 0.0, "max_priority": 0}}
    rig = Rig(config={"tenants": {"name": "tight", "tenants": tenants}})
    study_id = rig.submit()
    rig.until(lambda: any(t.stage_index == 1 and t.state is TrialState.RUNNING for t in rig.store.trials(study_id)))
    held_back = by_number(status_document(rig.store, study_id, rig.at)["trials"])[1]
    assert "tenant default holds 1 device(s)" in held_back["why"]
    assert "nobody can say when" in held_back["why"]


def test_studies_are_running_queued_paused_or_over_and_say_whether_anybody_serves(rig: Rig) -> None:
    study_id = rig.submit()

    def listed() -> tuple[str, bool]:
        (study,) = studies_document(rig.store, rig.at)
        return study["state"], study["served"]

    assert listed() == ("queued", True)
    rig.cycle(5)
    assert listed() == ("running", True)
    rig.ask(CommandKind.PAUSE, study_id)
    rig.until(lambda: listed() == ("paused", True))
    rig.store.release_lease(rig.term, rig.at)
    assert listed() == ("paused", False)
    rig.ask(CommandKind.CANCEL, study_id)
    rig.cycle(3)
    assert listed() == ("over", False)


def test_a_bundle_whose_trial_was_read_before_it_ran_is_left_out(rig: Rig) -> None:
    study_id = rig.submit()
    rig.cycle(20)
    store = MemoryStore()
    store.apply([RecordStudy(study=rig.store.study(study_id)), RecordDevices(devices=(device(0), device(1)))])
    trials = [replace(trial, state=TrialState.QUEUED) for trial in rig.store.trials(study_id)]
    store.apply([RecordTrial(trial=trial, was=None, at=0.0) for trial in trials])
    store.apply([RecordAllocation(allocation=line) for line in rig.store.allocations(study_id)])
    document = status_document(store, study_id, rig.at)
    assert [device["residents"] for device in document["devices"]] == [[], []]


@pytest.mark.slow
def test_twenty_thousand_queued_trials_are_seen_within_seconds() -> None:
    submission = composed(*OVERRIDES)
    first = submission.variants[0]
    store = MemoryStore()
    study = replace(submission.new_study(0.0), device_kind=DeviceKind.CPU)
    (trial,) = submission.trials(study)[:1]
    store.apply([RecordStudy(study=study), RecordDevices(devices=(device(0), device(1)))])
    trials = []
    for number in range(20_000):
        last = replace(first.stages[1], key=f"{first.stages[1].key}{number}")
        variant = replace(first, key=last.key, stages=(last,))
        trials.append(replace(trial, trial_id=f"{study.study_id}-{number:05d}", number=number, variant=variant))
    store.apply([RecordTrial(trial=each, was=None, at=0.0) for each in trials])
    began = time.process_time()
    document = status_document(store, "", 1.0)
    assert time.process_time() - began < 6.0  # 3 s on a machine that does nothing else
    assert len(document["trials"]) == 20_000
