"""shortest_first: the shortest expected hold first."""

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ordering import shortest_first
from orchestrator.schema import Request
from orchestrator.snapshot import Snapshot
from tests.unit.orchestrator.ordering.requests import keys, waiting


def test_the_shortest_goes_first() -> None:
    queue = waiting("long", expected_s=60.0), waiting("short", at=1.0, expected_s=5.0)
    assert keys(shortest_first(Snapshot(at=2.0, queue=queue))) == ["short", "long"]


def test_an_unknown_hold_counts_as_the_mean_of_the_known_ones() -> None:
    queue = waiting("unknown"), waiting("above", expected_s=31.0), waiting("below", expected_s=27.0)
    assert keys(shortest_first(Snapshot(at=1.0, queue=queue))) == ["below", "unknown", "above"]


def test_if_no_hold_is_known_arrival_decides() -> None:
    queue = waiting("late", at=1.0), waiting("early", at=0.0)
    assert keys(shortest_first(Snapshot(at=1.0, queue=queue))) == ["early", "late"]


def test_equal_holds_go_by_arrival() -> None:
    queue = waiting("late", at=1.0, expected_s=9.0), waiting("early", at=0.0, expected_s=9.0)
    assert keys(shortest_first(Snapshot(at=1.0, queue=queue))) == ["early", "late"]


@given(holds=st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_no_other_order_waits_less_on_one_device(holds: list[int]) -> None:
    def total_wait_s(order: list[Request]) -> float:
        ends, waits = 0.0, 0.0
        for request in order:
            waits += ends
            ends += request.expected_s or 0.0
        return waits

    queue = tuple(waiting(str(n), expected_s=float(hold)) for n, hold in enumerate(holds))
    best = min(total_wait_s(list(order)) for order in permutations(queue))
    assert total_wait_s(list(shortest_first(Snapshot(at=0.0, queue=queue)))) == best
