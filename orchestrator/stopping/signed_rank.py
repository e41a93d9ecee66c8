"""Wilcoxon's signed-rank test (Wilcoxon 1945, Biometrics Bulletin 1:80), exact with ties and zeros and fast enough to
be asked for every setting of a large study: scipy enumerates the signs where there are ties, 1 s for 13 pairs, and
takes a normal distribution for more."""

import math
from collections.abc import Sequence
from statistics import NormalDist

MOST_EXACT = 64
"""Pairs that differ; with more of them the normal distribution is as good."""


def p_less(differences: Sequence[float]) -> float:
    """The one-sided p-value of differences that small, if each were as likely to have the other sign. Zeros are split:
    half of their ranks counts to either side (scipy's `zsplit`). 1 without any that is not zero."""
    ranks = _ranks([abs(difference) for difference in differences])
    moving = [rank for rank, difference in zip(ranks, differences, strict=True) if difference]
    above = sum(rank for rank, difference in zip(ranks, differences, strict=True) if difference > 0)
    return _exact(moving, above) if len(moving) <= MOST_EXACT else _normal(moving, above)


def _ranks(sizes: Sequence[float]) -> list[int]:
    """Twice the rank of each, from 2 on; equal ones share the mean of theirs, which is a half at the finest."""
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    ranks = [0] * len(sizes)
    first = 0
    for place in range(1, len(order) + 1):
        if place == len(order) or sizes[order[place]] != sizes[order[first]]:
            for index in order[first:place]:
                ranks[index] = first + 1 + place
            first = place
    return ranks


def _exact(ranks: Sequence[int], above: int) -> float:
    """How many of all choices of signs have a sum of positive ranks up to `above`: a polynomial's coefficients, packed
    into one whole number with room for 2^len(ranks) in each."""
    bits = len(ranks) + 2
    counts = 1
    for rank in ranks:
        counts += counts << (rank * bits)
    up_to = counts & ((1 << ((above + 1) * bits)) - 1)
    width = (1 << bits) - 1
    total = up_to % width if up_to else 0  # the sum of digits, modulo one less than the base, which it stays below
    return total / (1 << len(ranks))


def _normal(ranks: Sequence[int], above: int) -> float:
    """By the sum's mean and variance under the null, with a correction for continuity."""
    spread = math.sqrt(sum(rank**2 for rank in ranks)) / 2
    return NormalDist().cdf((above + 1 - sum(ranks) / 2) / spread) if spread else 1.0
