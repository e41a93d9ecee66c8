"""What is believed of a stage's demand, and why."""

from dataclasses import replace

import pytest

from cluster.simulated import Script
from orchestrator.control.explain import explanation
from orchestrator.events import Launch
from tests.unit.orchestrator.control.rigs import OVERRIDES, Rig, steady


def light(launch: Launch) -> Script:
    script = steady(launch)
    return replace(script, outcome=replace(script.outcome, peak_memory_bytes=60 << 20))


def words(rig: Rig, study_id: str, number: int) -> str:
    return "\n".join(explanation(rig.store, f"{study_id}-{number:04d}", rig.at))


def test_before_anything_was_measured_the_parts_of_the_estimate_are_said() -> None:
    rig = Rig()
    study_id = rig.submit()
    rig.cycle(5)
    text = words(rig, study_id, 3)
    assert "Stage warmup asks for 86 MiB of each of its devices: from first principles (process 67 MiB, " in text
    assert "since none of its shape has been measured" in text


def test_what_was_measured_is_said_with_how_often() -> None:
    rig = Rig(script=light)
    study_id = rig.submit()
    rig.until(lambda: rig.completed(study_id) == 2)
    text = words(rig, study_id, 4)
    assert "Stage main asks for 75 MiB of each of its devices: measured, at most 60 MiB in 2 run(s) of " in text
    assert "stages of the same shape, and 25 % on top." in text


@pytest.mark.parametrize("completed", [0, 2])
def test_what_a_person_said_is_said_with_what_was_measured(completed: int) -> None:
    rig = Rig(*OVERRIDES, "cluster.memory_per_trial_gib=2", script=light)
    study_id = rig.submit()
    rig.cycle(5)
    rig.until(lambda: rig.completed(study_id) == completed)
    text = words(rig, study_id, 4)
    assert "asks for 2.00 GiB of each of its devices: cluster.memory_per_trial_gib says so" in text
    assert ("2 run(s) of stages of the same shape took 60 MiB" in text) == bool(completed)


def test_what_the_neighbours_took_is_said_of_a_shape_that_was_never_measured() -> None:
    rig = Rig(script=light)
    rig.finish(rig.submit())
    wider = Rig(*OVERRIDES, "model.d_model=128", store=rig.store)
    study_id = wider.submit()
    wider.until(lambda: study_id in wider.loop.state.studies)
    text = words(wider, study_id, 4)
    assert "since none of its shape has been measured; " in text
    assert "run(s) of the nearest configs at distance 1.0 took 60 MiB (" in text
