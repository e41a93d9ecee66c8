"""How long stages are expected to hold their devices, by those most like them."""

import pytest

from orchestrator.history import Durations
from tests.unit.orchestrator.history.stages import of


def test_nothing_is_expected_before_anything_was_seen() -> None:
    assert Durations().expected_s(of("sft")) is None


def test_a_stage_takes_as_long_per_step_as_those_of_its_shape() -> None:
    durations = Durations()
    durations.observe("a", of("sft", lr=1e-3), steps=50, held_s=5.0)
    durations.observe("b", of("sft", width=512), steps=50, held_s=500.0)
    assert durations.expected_s(of("sft", lr=9e-3, steps=200)) == 20.0


def test_a_shape_that_was_never_seen_takes_as_long_as_its_algorithm() -> None:
    durations = Durations()
    durations.observe("a", of("sft"), steps=50, held_s=5.0)
    durations.observe("b", of("grpo"), steps=50, held_s=50.0)
    assert durations.expected_s(of("grpo", width=512)) == 100.0


def test_an_algorithm_that_was_never_seen_takes_as_long_as_all_together() -> None:
    durations = Durations()
    durations.observe("a", of("sft"), steps=50, held_s=5.0)
    assert durations.expected_s(of("grpo"), left=0.5) == 5.0


def test_a_later_observation_of_a_bundle_replaces_the_one_before() -> None:
    durations = Durations()
    for steps in (10, 20, 50):
        durations.observe("a", of("sft"), steps=steps, held_s=steps * 0.1)
    expected = durations.expected(of("sft"))
    assert expected is not None
    assert (expected.basis, expected.work, expected.rate, expected.runs) == ("stages of the same shape", 50.0, 0.1, 1)


def test_an_observation_of_a_bundle_that_was_settled_stays_beside_the_next() -> None:
    durations = Durations()
    durations.observe("a", of("sft"), steps=50, held_s=5.0)
    durations.settle("a")
    durations.observe("a", of("sft"), steps=50, held_s=15.0)
    assert durations.expected_s(of("sft")) == 20.0


def test_a_few_first_steps_are_no_knowledge() -> None:
    durations = Durations()
    durations.observe("a", of("sft"), steps=10, held_s=5.0)
    assert not durations.knows(of("sft"))
    durations.observe("a", of("sft"), steps=30, held_s=6.0)
    assert durations.knows(of("sft", width=512))
    assert not durations.knows(of("grpo"))


def test_a_member_of_a_stack_takes_as_long_as_others_took_among_as_many() -> None:
    durations = Durations()
    durations.observe("a", of("sft"), steps=100, held_s=1.0)
    durations.observe("b", of("sft", lr=1e-2), steps=100, held_s=3.0, width=8)
    assert durations.expected_s(of("sft")) == pytest.approx(1.0)
    assert durations.expected_s(of("sft"), width=8) == pytest.approx(3.0)
    assert durations.expected_s(of("sft", steps=200), left=0.5, width=7) == pytest.approx(3.0)


def test_a_width_that_nobody_was_seen_at_lies_between_no_slower_and_one_after_the_other() -> None:
    durations = Durations()
    for bundle_id in "abcd":
        durations.observe(bundle_id, of("sft"), steps=100, held_s=1.0)
    expected = durations.expected(of("sft"), width=8)
    assert expected is not None
    assert expected.value == pytest.approx(8**0.5)
    assert expected.low < 1.05
    assert expected.high > 7.6
    assert not durations.knows(of("sft"), width=8)


def test_of_a_member_nothing_is_expected_while_nothing_of_its_algorithm_was_seen() -> None:
    durations = Durations()
    durations.observe("a", of("sft"), steps=100, held_s=1.0)
    assert durations.expected(of("grpo"), width=8) is None
    assert durations.expected_s(of("grpo"), width=8) is None
    durations.observe("b", of("grpo"), steps=100, held_s=20.0, width=8)
    assert durations.expected_s(of("grpo"), width=8) == pytest.approx(20.0)
    assert durations.knows(of("grpo"), width=8)


def test_alone_the_nearest_width_tells_as_well() -> None:
    durations = Durations()
    durations.observe("a", of("sft"), steps=100, held_s=4.0, width=4)
    assert durations.expected_s(of("sft")) == pytest.approx(2.0)
