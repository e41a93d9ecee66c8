"""best_fit: the fullest node that still fits, and its fullest devices."""

import pytest

from orchestrator.packing import BestFit
from orchestrator.schema import Demand
from orchestrator.snapshot import Room
from tests.unit.orchestrator.packing.cases import GIB, asking, demand, device_ids, node, snapshot, taken


def placed(room: Room, *demands: Demand, cpu_weight: float = 0.5) -> list[tuple[str, ...]]:
    return device_ids(BestFit(cpu_weight=cpu_weight)(snapshot(room), asking(*demands)))


def test_the_node_with_the_least_left_is_taken() -> None:
    room = taken(Room([node("a", 2), node("b", 2)]), (["b/0"], 1.0))
    assert placed(room, demand(1)) == [("b/1",)]


def test_a_free_device_of_a_full_node_goes_before_a_device_in_use_on_an_empty_one() -> None:
    room = taken(Room([node("a", 4), node("b", 2)]), (["a/0"], 0.5), (["b/0"], 1.0))
    assert placed(room, demand(1, 0.5)) == [("b/1",)]


def test_on_the_node_a_fraction_goes_beside_another() -> None:
    room = taken(Room([node("a", 2)]), (["a/1"], 0.5))
    assert placed(room, demand(1, 0.25)) == [("a/1",)]


def test_a_device_without_the_memory_is_passed_over() -> None:
    room = Room([node("a", 2, memory_gib=2)])
    first, second = demand(1, 0.25, gib=1), demand(1, 0.25, gib=2)
    assert placed(room, first, second) == [("a/0",), ("a/1",)]


def test_several_trials_fill_one_device_before_the_next() -> None:
    assert placed(Room([node("a", 2)]), *[demand(1, 0.5)] * 4) == [("a/0",), ("a/0",), ("a/1",), ("a/1",)]


@pytest.mark.parametrize(("share", "count"), [(0.1, 10), (1 / 3, 3), (0.25, 4)])
def test_equal_shares_fill_a_device(share: float, count: int) -> None:
    assert placed(Room([node("a", 1)]), *[demand(1, share)] * (count + 1)) == [("a/0",)] * count


def test_a_gang_takes_the_fullest_node() -> None:
    room = taken(Room([node("a", 2), node("b", 3)]), (["b/0"], 1.0), (["b/1"], 0.5), (["b/2"], 0.5))
    assert placed(room, demand(2, 0.5)) == [("b/1", "b/2")]


def test_free_cores_count_beside_free_devices() -> None:
    room = Room([node("a", 2, cpus=64.0), node("b", 2, cpus=8.0)])
    assert placed(room, demand(1)) == [("b/0",)]


def test_with_a_cpu_weight_of_nothing_only_devices_count() -> None:
    room = Room([node("a", 2, cpus=64.0), node("b", 2, cpus=8.0)])
    assert placed(room, demand(1), cpu_weight=0.0) == [("a/0",)]


def test_work_on_the_host_goes_to_the_fullest_node() -> None:
    room = taken(Room([node("a", 2, cpus=8.0), node("b", 2, cpus=8.0)]), (["b/0", "b/1"], 1.0))
    (placement,) = BestFit()(snapshot(room), asking(demand(0, cpus=2.0)))
    assert (placement.node_ids, placement.device_ids) == (("b",), ())


def test_tied_nodes_go_by_the_smallest_id() -> None:
    assert placed(Room([node("b", 2), node("a", 2)]), demand(1)) == [("a/0",)]


def test_tied_devices_go_by_the_smallest_index() -> None:
    assert placed(Room([node("a", 3)]), demand(1, 0.5)) == [("a/0",)]


def test_a_share_of_a_device_is_that_share_of_its_memory() -> None:
    (placement,) = BestFit()(snapshot(Room([node("a", 1)])), asking(demand(1, 0.5, gib=1)))
    assert placement.memory_bytes == 4 * GIB


def test_what_is_asked_for_beyond_the_share_is_granted() -> None:
    (placement,) = BestFit()(snapshot(Room([node("a", 1)])), asking(demand(1, 0.25, gib=6)))
    assert placement.memory_bytes == 6 * GIB


def test_what_is_left_bounds_the_grant() -> None:
    placements = BestFit()(snapshot(Room([node("a", 1)])), asking(demand(1, 0.25, gib=6), demand(1, 0.5, gib=1)))
    assert placements[1].memory_bytes == 2 * GIB
