import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.report.intervals import Z_95, Interval, mean_interval, newcombe_difference, t_95


def wilson(successes: int, n: int) -> Interval:
    """Wilson's score interval (Wilson 1927)."""
    p = successes / n
    centre = (p + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 / (1 + Z_95**2 / n) * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n * n))
    return Interval(p, centre - half, centre + half)


def test_newcombe_gives_the_published_example() -> None:
    # Newcombe 1998, table II, row (a): 56/70 - 48/80, method 10.
    difference = newcombe_difference(wilson(56, 70), wilson(48, 80))
    assert (round(difference.value, 4), round(difference.low, 4), round(difference.high, 4)) == (0.2, 0.0524, 0.3339)
    assert difference.excludes_zero


@given(st.integers(0, 50), st.integers(0, 50))
def test_the_difference_turned_round_is_its_mirror_image(first: int, second: int) -> None:
    one, other = (
        newcombe_difference(wilson(first, 50), wilson(second, 50)),
        newcombe_difference(wilson(second, 50), wilson(first, 50)),
    )
    assert one.negated().low == pytest.approx(other.low)
    assert one.negated().high == pytest.approx(other.high)
    assert one.low <= one.value <= one.high


@pytest.mark.parametrize("degrees", [1, 2, 5, 30, 31, 60, 1000])
def test_t_agrees_with_scipy(degrees: int) -> None:
    from scipy import stats

    assert t_95(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-3)


def test_the_interval_of_a_mean_agrees_with_scipy_and_one_value_has_none() -> None:
    from scipy import stats

    values = [0.4, 0.5, 0.45, 0.7]
    interval = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=interval.value, scale=stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-3)
    assert mean_interval([0.5]) is None
