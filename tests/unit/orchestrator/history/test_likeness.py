"""How far apart two stages are."""

import pytest

from orchestrator.history.likeness import OTHER_ALGORITHM, Likenesses
from orchestrator.schema import Stage
from tests.unit.orchestrator.history.stages import of


def distance(one: Stage, other: Stage) -> float:
    likenesses = Likenesses()
    return likenesses.of(one).distance(likenesses.of(other))


def test_what_costs_nothing_makes_no_difference() -> None:
    likenesses = Likenesses()
    one, other = likenesses.of(of("sft", lr=1e-4, steps=10)), likenesses.of(of("sft", lr=1e-2, steps=900))
    assert one.shape == other.shape
    assert one.key != other.key
    assert one.distance(other) == 0.0


def test_a_number_is_as_far_away_as_it_doubles() -> None:
    assert distance(of("sft", width=63), of("sft", width=127)) == pytest.approx(1.0)
    assert distance(of("sft", width=63), of("sft", width=255)) == pytest.approx(2.0)


def test_another_word_is_one_away() -> None:
    assert distance(of("sft"), of("sft", task="gcd")) == 1.0


def test_another_algorithm_is_farther_than_another_size() -> None:
    assert distance(of("sft"), of("grpo")) > OTHER_ALGORITHM > distance(of("sft", width=1), of("sft", width=1000))


def test_the_same_stage_in_another_context_is_of_another_shape() -> None:
    likenesses = Likenesses()
    assert likenesses.of(of("sft"), 1).shape != likenesses.of(of("sft"), 2).shape
