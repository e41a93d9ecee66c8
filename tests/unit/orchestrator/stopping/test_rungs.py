"""At which resources trials are judged."""

from orchestrator.stopping.rungs import Ladder
from tests.unit.orchestrator.stopping.studies import flat, trial


def ladder(grace: float = 0.0, unit: str = "budget", resource: str = "device_seconds", lowest: float = 1.0) -> Ladder:
    return Ladder(resource=resource, lowest=lowest, factor=3, grace={"sft": grace}, grace_unit=unit)


def test_a_mark_is_the_first_evaluation_between_two_rungs() -> None:
    marks = ladder().marks(trial(0, lambda s: s / 100, 28.0))
    assert {rung: mark.evaluation.accuracy for rung, mark in marks.items()} == {0: 0.01, 1: 0.03, 2: 0.09, 3: 0.27}


def test_powers_are_not_lost_to_rounding() -> None:
    assert [ladder().rung_of(3.0**i) for i in range(12)] == list(range(12))


def test_a_trial_that_was_not_evaluated_between_two_rungs_has_no_mark_there() -> None:
    one = trial(0, flat(0.5), 28.0)
    sparse = one.evaluations[0], one.evaluations[11]  # at 1 and at 12 device-seconds
    assert set(ladder().marks(type(one)(**{**_fields(one), "evaluations": sparse}))) == {0, 2}


def test_within_its_grace_a_trial_has_no_mark_and_its_first_level_is_behind_it() -> None:
    for made in (ladder(0.3), ladder(9.0, "resource")):
        marks = made.marks(trial(0, flat(0.5), 28.0))
        assert {rung: mark.level for rung, mark in marks.items()} == {2: 0, 3: 1}


def test_looks_are_the_rungs_from_the_grace_to_the_budget() -> None:
    assert {mark.looks for mark in ladder().marks(trial(0, flat(0.5), 28.0)).values()} == {4}
    assert {mark.looks for mark in ladder(0.3).marks(trial(0, flat(0.5), 28.0)).values()} == {2}


def test_steps_and_tokens_have_rungs_of_their_own() -> None:
    one = trial(0, flat(0.5), 28.0)
    assert max(ladder(resource="steps").marks(one)) == 4  # 84 steps
    assert max(ladder(resource="tokens", lowest=1000.0).marks(one)) == 3


def _fields(one: object) -> dict:
    return {name: getattr(one, name) for name in one.__slots__}  # type: ignore[attr-defined]
