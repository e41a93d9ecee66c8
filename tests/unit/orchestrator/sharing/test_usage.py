"""DecayedUsage: what tenants hold and have used, integrated in closed form."""

import math
from collections.abc import Sequence
from dataclasses import astuple
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.schema import Capacity
from orchestrator.sharing import DecayedUsage

HALF_LIFE_S = 50.0
ONE = Capacity(devices=1.0)
# (start, length, devices)
INTERVALS = st.lists(
    st.tuples(st.integers(0, 200), st.integers(1, 100), st.sampled_from([0.1, 0.5, 1.0, 4.0])), min_size=1, max_size=8
)


def replayed(intervals: Sequence[tuple[float, float, float]]) -> DecayedUsage:
    """The intervals' ends in order of time."""
    usage = DecayedUsage(HALF_LIFE_S)
    ends = [(start, 1, key) for key, (start, _, _) in enumerate(intervals)]
    ends += [(start + length, 0, key) for key, (start, length, _) in enumerate(intervals)]
    for at, opens, key in sorted(ends):
        if opens:
            usage.open(str(key), "a", Capacity(devices=intervals[key][2], cpus=2.0, host_memory_bytes=8.0), at)
        else:
            usage.close(str(key), at)
    return usage


def test_held_is_what_is_open() -> None:
    usage = DecayedUsage(HALF_LIFE_S)
    for key in range(10):
        usage.open(str(key), "a", Capacity(devices=0.1, cpus=1.0, host_memory_bytes=5.0), at=0.0)
    assert usage.held("a") == Capacity(devices=1.0, cpus=10.0, host_memory_bytes=50.0)
    usage.close("3", at=1.0)
    assert usage.held("a") == Capacity(devices=0.9, cpus=9.0, host_memory_bytes=45.0)


def test_who_never_held_anything_has_used_nothing() -> None:
    usage = DecayedUsage(HALF_LIFE_S)
    assert (usage.held("a"), usage.used("a", 5.0), usage.tenants()) == (Capacity(), Capacity(), ())


def test_use_halves_every_half_life() -> None:
    usage = DecayedUsage(HALF_LIFE_S)
    usage.open("x", "a", ONE, at=0.0)
    usage.close("x", at=10.0)
    now = usage.used("a", 10.0).devices
    assert usage.used("a", 10.0 + 3 * HALF_LIFE_S).devices == pytest.approx(now / 8)


def test_a_short_use_counts_as_its_resource_seconds() -> None:
    usage = DecayedUsage(half_life_s=1e9)
    usage.open("x", "a", Capacity(devices=0.5, cpus=3.0), at=1000.0)
    assert astuple(usage.used("a", 1010.0)) == pytest.approx((5.0, 30.0, 0.0))


def test_one_unit_held_forever_is_worth_the_half_life_over_ln_2() -> None:
    usage = DecayedUsage(HALF_LIFE_S)
    usage.open("x", "a", ONE, at=0.0)
    assert usage.used("a", 100 * HALF_LIFE_S).devices == pytest.approx(HALF_LIFE_S / math.log(2))


def test_tenants_are_told_apart() -> None:
    usage = DecayedUsage(HALF_LIFE_S)
    usage.open("x", "b", ONE, at=0.0)
    usage.open("y", "a", Capacity(devices=2.0), at=0.0)
    usage.close("x", at=1.0)
    assert usage.tenants() == ("a", "b")
    assert (usage.held("a").devices, usage.held("b").devices) == (2.0, 0.0)


def test_a_key_can_be_open_once_only() -> None:
    usage = DecayedUsage(HALF_LIFE_S)
    usage.open("x", "a", ONE, at=0.0)
    with pytest.raises(ValueError, match="x is open already, for tenant a"):
        usage.open("x", "b", ONE, at=1.0)


def test_what_is_not_open_cannot_be_closed() -> None:
    with pytest.raises(KeyError):
        DecayedUsage(HALF_LIFE_S).close("x", at=0.0)


@given(intervals=INTERVALS, later=st.integers(0, 300))
def test_equals_a_numeric_integral(intervals: list, later: int) -> None:
    at = max(start + length for start, length, _ in intervals) + float(later)
    expected = 0.0
    for start, length, devices in intervals:
        x = np.linspace(start, start + length, 2001)
        expected += float(np.trapezoid(devices * np.exp2(-(at - x) / HALF_LIFE_S), x))
    assert replayed(intervals).used("a", at).devices == pytest.approx(expected, rel=1e-5)


@given(intervals=INTERVALS, cuts=st.lists(st.integers(1, 99), max_size=3))
def test_cutting_intervals_into_pieces_changes_nothing(intervals: list, cuts: list[int]) -> None:
    pieces = []
    for start, length, devices in intervals:
        ends = [start + length * part for part in sorted({0.0, 1.0, *(cut / 100 for cut in cuts)})]
        pieces += [(a, b - a, devices) for a, b in pairwise(ends)]
    assert replayed(pieces).used("a", 400.0).devices == pytest.approx(replayed(intervals).used("a", 400.0).devices)


@given(intervals=INTERVALS, order=st.randoms(use_true_random=False))
def test_the_order_of_events_changes_nothing(intervals: list, order: Random) -> None:
    usage = DecayedUsage(HALF_LIFE_S)
    shuffled = list(enumerate(intervals))
    order.shuffle(shuffled)
    for key, (start, length, devices) in shuffled:
        usage.open(str(key), "a", Capacity(devices=devices), start)
        usage.close(str(key), start + length)
    assert usage.used("a", 400.0).devices == pytest.approx(replayed(intervals).used("a", 400.0).devices)


@given(intervals=INTERVALS, asked=st.lists(st.integers(300, 400), max_size=4))
def test_asking_changes_nothing(intervals: list, asked: list[int]) -> None:
    usage = replayed(intervals)
    for at in asked:
        usage.used("a", float(at))
    assert usage.used("a", 350.0) == replayed(intervals).used("a", 350.0)
