"""The signed-rank test against the best setting."""

from orchestrator.stopping import Hold
from tests.unit.orchestrator.stopping.studies import flat, policy, trial


def folds(accuracy: float) -> tuple[float, ...]:
    """Ten parts of the problems, some harder than others."""
    return tuple(min(1.0, max(0.0, accuracy + 0.01 * (k - 4.5) + 0.003 * (k * 7 % 5))) for k in range(10))


def test_with_folds_one_seed_is_enough() -> None:
    trials = [trial(n, flat(0.8 if n < 3 else 0.5), folds=folds) for n in range(6)]
    verdicts = policy("wilcoxon")(trials)
    assert [v.trial_id[-1] for v in verdicts if isinstance(v, Hold)] == ["3", "4", "5"]
    assert all("by wilcoxon" in v.stop.why for v in verdicts if isinstance(v, Hold))


def test_without_folds_one_seed_is_never_enough() -> None:
    assert policy("wilcoxon")([trial(n, flat(0.9 - 0.15 * n)) for n in range(6)]) == []


def test_without_folds_many_seeds_are() -> None:
    def seeds(count: int) -> list:
        good = [trial(n, flat(0.8 + 0.01 * n), seed=n, lr=1.0) for n in range(count)]
        return [*good, *(trial(20 + n, flat(0.3 + 0.02 * n), seed=n, lr=2.0) for n in range(count))]

    assert policy("wilcoxon")(seeds(3)) == []
    assert len(policy("wilcoxon")(seeds(8))) == 8


def test_folds_that_disagree_make_no_verdict() -> None:
    def mixed(accuracy: float) -> tuple[float, ...]:
        return tuple(0.9 if (k % 2 == 0) == (accuracy > 0.5) else 0.2 for k in range(10))

    assert policy("wilcoxon")([trial(n, flat(0.56 if n < 3 else 0.49), folds=mixed) for n in range(6)]) == []
