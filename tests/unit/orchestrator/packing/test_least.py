"""Least: where the least of many numbers is, and the decisions that go by it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.packing import BestFit
from orchestrator.packing.least import Least
from orchestrator.snapshot import Room
from tests.unit.orchestrator.packing.cases import asking, demand, node, snapshot

# Few different numbers, so that there are ties, and more than a level holds.
NUMBERS = st.sampled_from([0.0, 1.0, 2.0, np.inf])


@given(
    size=st.integers(1, 9000),
    seed=st.integers(0, 99),
    changes=st.lists(st.lists(st.tuples(st.integers(0, 8999), NUMBERS), max_size=70), max_size=6),
)
def test_equals_a_look_at_all_numbers_after_any_changes(size: int, seed: int, changes: list) -> None:
    least = Least(size)
    least.values[:] = np.random.default_rng(seed).integers(0, 5, size)
    least.changed(None)
    assert least.first() == least.values.argmin()
    for together in changes:
        places = [place % size for place, _ in together]
        for place, (_, number) in zip(places, together, strict=True):
            least.values[place] = number
        least.changed(places)
        assert least.first() == least.values.argmin()


@pytest.mark.parametrize("size", [1, 64, 65, 64 * 64, 64 * 64 + 1])
def test_of_equal_numbers_the_first_is_the_least(size: int) -> None:
    least = Least(size)
    least.values[:] = 1.0
    least.changed(None)
    assert least.first() == 0
    least.values[size - 1] = 0.5
    least.changed([size - 1])
    assert least.first() == size - 1


NODES = 70
DEMANDS = [demand(1, 0.25), demand(1, 0.5), demand(1), demand(2), demand(0, cpus=3.0)]


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("come"), st.lists(st.sampled_from(DEMANDS), min_size=1, max_size=20)),
            st.tuples(st.just("go"), st.lists(st.integers(0, 10**6), min_size=1, max_size=10)),
        ),
        max_size=12,
    )
)
def test_best_fit_decides_as_it_would_if_it_had_kept_nothing(steps: list) -> None:
    room = Room([node(f"node-{n:02d}", 2, cpus=8.0) for n in range(NODES)])
    sitting = []
    for step, what in steps:
        if step == "come":
            placements = BestFit()(snapshot(room), asking(*what))
            assert placements == BestFit()(snapshot(room.copy()), asking(*what))
            for placement in placements:
                room.take(placement)
            sitting += placements
        else:
            for number in what[: len(sitting)]:
                room.give_back(sitting.pop(number % len(sitting)))
