"""Hyperband: brackets that are left alone on their first rungs."""

from orchestrator.stopping import Hold
from tests.unit.orchestrator.stopping.studies import flat, policy, trial


def behind(until_s: float, **changes: int) -> int:
    trials = [trial(n, flat(0.9 if n < 20 else 0.1), until_s) for n in range(40)]
    return sum(isinstance(v, Hold) for v in policy("hyperband", **changes)(trials))


def test_with_one_bracket_it_is_successive_halving() -> None:
    trials = [trial(n, flat(0.9 if n < 20 else 0.1)) for n in range(40)]
    own, other = policy("hyperband", brackets=1)(trials), policy("successive_halving")(trials)
    assert [v.trial_id for v in own] == [v.trial_id for v in other]


def test_on_the_first_rung_one_bracket_is_judged_and_on_the_last_all_are() -> None:
    """The trials' first rung is at 1 device-second, the third one at 9."""
    first, third = behind(1.5), behind(9.5)
    assert 0 < first < 20
    assert third == 20
