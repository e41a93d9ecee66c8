import pytest
from scipy.stats import binomtest

from experiments.evaluate import wilson_interval


@pytest.mark.parametrize(("right", "count"), [(0, 50), (1, 50), (25, 50), (50, 50)])
def test_the_interval_is_scipys_wilson_interval(right, count):
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson_interval(right, count) == pytest.approx((expected.low, expected.high), abs=1e-12)
