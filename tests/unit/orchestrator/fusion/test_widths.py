"""The width of a stack is found by trying: doubled while that pays, halved where it does not."""

import math

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fusion import Widths
from orchestrator.fusion.widths import FIRST


def measured(throughput_of: dict[int, float]) -> Widths:
    widths = Widths()
    for width, throughput in throughput_of.items():
        widths.observe("key", width, steps=10.0 * throughput / width, seconds=10.0)
    return widths


def test_the_first_stack_of_a_key_is_as_wide_as_experience_says() -> None:
    assert Widths().best("key", 16) == FIRST
    assert Widths().best("key", 3) == 3


def test_a_wider_one_is_tried_next() -> None:
    assert measured({8: 100.0}).best("key", 64) == 16


def test_a_stage_that_ran_alone_says_nothing_of_stacks() -> None:
    assert measured({1: 100.0}).best("key", 64) == FIRST
    assert measured({1: 100.0, 2: 150.0}).best("key", 64) == FIRST
    assert measured({1: 100.0}).best("key", 5) == 5


def test_where_wider_is_slower_a_narrower_one_is_tried() -> None:
    assert measured({8: 100.0, 16: 90.0}).best("key", 64) == 4


def test_between_two_slower_ones_the_best_stays() -> None:
    assert measured({4: 80.0, 8: 100.0, 16: 90.0}).best("key", 64) == 8


def test_where_fusing_is_slower_stages_run_alone() -> None:
    assert measured({1: 100.0, 2: 90.0, 4: 70.0, 8: 50.0}).best("key", 64) == 1


def test_a_key_knows_nothing_of_another() -> None:
    assert measured({8: 100.0, 16: 90.0}).best("other", 64) == FIRST


def test_a_glimpse_is_no_measurement() -> None:
    widths = Widths()
    widths.observe("key", 8, steps=1.0, seconds=0.01)
    assert not widths.throughputs("key")


def test_a_width_counts_for_the_nearest_power_of_two() -> None:
    assert set(measured({3: 1.0, 6: 2.0, 11: 3.0, 12: 4.0}).throughputs("key")) == {4, 8, 16}


def test_what_was_seen_long_ago_counts_less() -> None:
    widths = Widths()
    widths.observe("key", 8, steps=1000.0, seconds=100.0)
    for _ in range(10):
        widths.observe("key", 8, steps=10.0, seconds=100.0)
    assert widths.throughputs("key")[8] < 1.0


def test_too_wide_for_the_memory_is_never_tried_again() -> None:
    widths = measured({8: 100.0})
    widths.exceeded("key", 8)
    assert widths.best("key", 64) == 4


@given(st.integers(0, 1 << 30), st.integers(1, 1 << 30), st.lists(st.integers(1, 32), min_size=1), st.integers(1, 32))
def test_memory_is_never_thought_less_than_it_is(base: int, member: int, seen: list[int], width: int) -> None:
    widths = Widths()
    for members in seen:
        widths.observe_memory("key", members, base + members * member)
    expected = widths.memory_bytes("key", width)
    assert expected is not None
    assert expected >= base + width * member


def test_memory_of_a_width_that_was_seen_is_what_was_seen() -> None:
    widths = Widths()
    widths.observe_memory("key", 4, 400)
    assert widths.memory_bytes("key", 4) == 400
    assert widths.memory_bytes("key", 6) == 600
    assert widths.memory_bytes("key", 2) == 400
    assert widths.memory_bytes("other", 2) is None


@given(st.dictionaries(st.sampled_from([1, 2, 4, 8, 16, 32]), st.floats(1.0, 1e3), min_size=1), st.integers(1, 40))
def test_the_search_ends_at_a_width_that_no_neighbour_beats(curve: dict[int, float], largest: int) -> None:
    """Whatever the throughput of each width is, trying what is asked for comes to an end, at a local optimum."""
    full = {width: curve.get(width, 0.5) for width in (1, 2, 4, 8, 16, 32, 64)}
    known: dict[int, float] = {}
    for _ in range(10):
        width = measured(known).best("key", largest)
        assert 1 <= width <= largest
        nearest = 1 << round(math.log2(width))
        if nearest in known:
            break
        known[nearest] = full[nearest]
    else:
        raise AssertionError("it goes on trying")
