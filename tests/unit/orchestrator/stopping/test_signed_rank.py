"""The signed-rank test, against scipy's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from orchestrator.stopping.signed_rank import MOST_EXACT, p_less

# Sixteenths, so that there are ties and zeros.
SIXTEENTHS = st.integers(-8, 6).map(lambda n: n / 16)


@settings(deadline=None, max_examples=25)  # scipy's enumeration is slow
@given(st.lists(SIXTEENTHS, min_size=2, max_size=8))
def test_with_ties_and_zeros_it_is_scipys_enumeration_of_all_signs(differences):
    if any(differences):
        expected = wilcoxon(differences, alternative="less", zero_method="zsplit").pvalue
        assert p_less(differences) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(st.sets(st.integers(1, 10_000), min_size=2, max_size=50), st.randoms(use_true_random=False))
def test_without_ties_it_is_scipys_exact_distribution(sizes, random):
    differences = [size * random.choice((-1, 1, -1)) for size in sizes]
    assert p_less(differences) == pytest.approx(wilcoxon(differences, alternative="less").pvalue, abs=1e-9)


@settings(deadline=None)
@given(st.lists(SIXTEENTHS.filter(bool), min_size=MOST_EXACT + 1, max_size=150))
def test_for_many_pairs_it_is_scipys_normal_distribution(differences):
    expected = wilcoxon(differences, alternative="less", correction=True, method="asymptotic").pvalue
    assert p_less(differences) == pytest.approx(expected, abs=1e-9)


def test_exact_and_normal_agree_where_one_takes_over():
    differences = [((7 * n) % 31 - 18) / 64 for n in range(MOST_EXACT + 1)]
    assert p_less(differences[:-1]) == pytest.approx(p_less(differences), abs=0.01)


def test_nothing_but_zeros_is_no_evidence():
    assert p_less([0.0] * 20) == 1.0
    assert p_less([0.0] * (MOST_EXACT + 1)) == 1.0
