"""best_fit: the fullest device that still fits."""

from orchestrator.packing import best_fit
from tests.unit.orchestrator.builders import GIB
from tests.unit.orchestrator.packing.test_every_policy import ask, build


def placed(devices: list[tuple[str, int, int]], requests: list[tuple[int, float, int]]) -> list[tuple[int, ...]]:
    return [tuple(int(d[-1]) for d in p.device_ids) for p in best_fit(build(devices), ask(requests))]


def test_a_fraction_goes_beside_another_rather_than_to_an_empty_device() -> None:
    assert placed([("a", 0, 8), ("a", 2, 8)], [(1, 0.25, 1)]) == [(1,)]


def test_a_device_without_the_memory_is_passed_over() -> None:
    assert placed([("a", 2, 1), ("a", 0, 8)], [(1, 0.25, 2)]) == [(1,)]


def test_several_trials_fill_one_device_before_the_next() -> None:
    assert placed([("a", 0, 8), ("a", 0, 8)], [(1, 0.5, 1)] * 4) == [(0,), (0,), (1,), (1,)]


def test_ten_tenths_fill_one_device() -> None:
    assert placed([("a", 0, 80)], [(1, 0.1, 1)] * 11) == [(0,)] * 10


def test_a_gang_takes_the_node_where_least_is_left_over() -> None:
    devices = [("a", 0, 8), ("a", 0, 8), ("b", 2, 8), ("b", 2, 8)]
    assert placed(devices, [(2, 0.5, 1)]) == [(2, 3)]


def test_ties_go_to_the_first_device() -> None:
    assert placed([("a", 1, 8), ("a", 1, 8)], [(1, 0.5, 1)]) == [(0,)]


def test_a_share_of_a_device_is_that_share_of_its_memory() -> None:
    (placement,) = best_fit(build([("a", 0, 8)]), ask([(1, 0.5, 1)]))
    assert placement.memory_bytes == 4 * GIB


def test_what_is_asked_for_beyond_the_share_is_granted() -> None:
    (placement,) = best_fit(build([("a", 0, 8)]), ask([(1, 0.25, 6)]))
    assert placement.memory_bytes == 6 * GIB


def test_what_is_left_bounds_the_grant() -> None:
    (placement,) = best_fit(build([("a", 1, 2)]), ask([(1, 0.5, 1)]))
    assert placement.memory_bytes == 2 * GIB
