"""The workload as a packing policy can know it."""

from itertools import pairwise

from orchestrator.snapshot import Arrivals
from tests.unit.orchestrator.packing.cases import demand

ONE, TWO = demand(1), demand(2)


def test_each_arrival_is_counted() -> None:
    arrivals = Arrivals()
    for arrived in (ONE, TWO, ONE):
        arrivals.observe(arrived)
    assert (arrivals.counts, arrivals.revision) == ({ONE: 2, TWO: 1}, 3)


def test_the_first_arrival_is_expected_at_once() -> None:
    arrivals = Arrivals()
    assert not arrivals.expected
    arrivals.observe(ONE)
    assert arrivals.expected == {ONE: 1}


def test_what_is_expected_changes_when_a_quarter_more_has_come() -> None:
    arrivals = Arrivals()
    for _ in range(100):
        arrivals.observe(ONE)
    before = arrivals.expected
    changed_at = []
    for number in range(101, 201):
        arrivals.observe(TWO)
        if arrivals.expected is not before:
            changed_at.append(number)
            assert sum(arrivals.expected.values()) == number
            before = arrivals.expected
    assert all(later >= 1.25 * sooner for sooner, later in pairwise(changed_at))
    assert 3 <= len(changed_at) <= 4


def test_what_is_known_beforehand_stands_in_for_what_comes() -> None:
    arrivals = Arrivals(known={TWO: 0.5})
    arrivals.observe(ONE)
    assert arrivals.expected == {TWO: 0.5}
