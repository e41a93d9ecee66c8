"""How sure a difference of dev accuracies is."""

import math

import pytest
from scipy import stats

from orchestrator.schema import Evaluation
from orchestrator.stopping.evidence import Standing, p_not_worse, upper_tail_of_t


def standing(*accuracies: float, problems: int = 200, planned: int | None = None, first_seed: int = 0) -> Standing:
    reached = {first_seed + n: Evaluation(1.0, 0.0, 1.0, a) for n, a in enumerate(accuracies)}
    return Standing(
        number=0,
        reached=reached,
        planned=frozenset(range(first_seed, first_seed + (planned or len(accuracies)))),
        problems=problems,
        accuracy=sum(accuracies) / len(accuracies),
    )


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 10, 31])
@pytest.mark.parametrize("t", [-3.0, -0.4, 0.0, 0.1, 1.7, 9.0])
def test_students_tail_is_scipys(degrees: int, t: float) -> None:
    assert upper_tail_of_t(t, degrees) == pytest.approx(stats.t.sf(t, degrees), abs=1e-12)


def test_of_one_seed_it_is_the_z_test_of_two_proportions() -> None:
    a, b = (0.3 * 200 + 1) / 202, (0.4 * 200 + 1) / 202
    z = (b - a) / math.sqrt(a * (1 - a) / 202 + b * (1 - b) / 202)
    assert p_not_worse(standing(0.3), standing(0.4)) == pytest.approx(stats.norm.sf(z))


def test_it_is_rarely_surer_than_it_may_be() -> None:
    """Two equal settings, 10,000 times: a p-value of at most 5 % comes at most about one time in twenty."""
    import numpy as np

    draw = np.random.default_rng(0).binomial(200, 0.5, size=(10_000, 2)) / 200
    below = [p for a, b in draw if (p := p_not_worse(standing(a), standing(b))) is not None and p <= 0.05]
    assert len(below) / 10_000 < 0.06


def test_of_several_seeds_the_less_sure_of_problems_and_seeds_counts() -> None:
    steady = p_not_worse(standing(0.4, 0.41, 0.4), standing(0.5, 0.52, 0.5))
    scattered = p_not_worse(standing(0.1, 0.9, 0.2), standing(0.5, 0.6, 0.6))
    assert steady is not None
    assert scattered is not None
    assert steady < 0.01 < 0.2 < scattered
    assert scattered == pytest.approx(stats.ttest_rel([0.5, 0.6, 0.6], [0.1, 0.9, 0.2], alternative="greater").pvalue)


def test_it_waits_for_a_second_seed_where_one_will_come() -> None:
    assert p_not_worse(standing(0.1, planned=4), standing(0.9, planned=4)) is None


def test_settings_without_a_seed_in_common_are_compared_unpaired() -> None:
    p = p_not_worse(standing(0.3, 0.3), standing(0.6, 0.6, first_seed=7))
    assert p is not None
    assert p < 1e-6


def test_without_problems_nobody_can_say() -> None:
    assert p_not_worse(standing(0.1, problems=0), standing(0.9, problems=0)) is None


def test_nothing_is_certain_at_0_and_100_percent_of_few_problems() -> None:
    p = p_not_worse(standing(0.0, problems=3), standing(1.0, problems=3))
    assert p is not None
    assert p > 0.005
