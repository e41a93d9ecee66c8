"""gpu_packing: beside others first, then a free device of a node in use, then an empty node."""

from orchestrator.packing import GpuPacking
from orchestrator.schema import Demand
from orchestrator.snapshot import Room
from tests.unit.orchestrator.packing.cases import asking, demand, device_ids, node, snapshot, taken


def placed(room: Room, *demands: Demand) -> list[tuple[str, ...]]:
    return device_ids(GpuPacking()(snapshot(room), asking(*demands)))


def test_a_device_in_use_goes_before_a_free_one_of_a_node_in_use() -> None:
    room = taken(Room([node("a", 2), node("b", 4)]), (["a/0"], 1.0), (["b/0"], 0.1))
    assert placed(room, demand(1, 0.5)) == [("b/0",)]


def test_a_node_in_use_goes_before_an_empty_one() -> None:
    room = taken(Room([node("a", 2), node("b", 4)]), (["b/0"], 1.0))
    assert placed(room, demand(1, 0.5)) == [("b/1",)]


def test_of_devices_in_use_the_fullest_is_taken() -> None:
    room = taken(Room([node("a", 1), node("b", 1)]), (["a/0"], 0.2), (["b/0"], 0.5))
    assert placed(room, demand(1, 0.5)) == [("b/0",)]


def test_of_nodes_in_use_the_one_where_the_fewest_free_devices_are_taken() -> None:
    room = taken(Room([node("a", 3), node("b", 3)]), (["a/0"], 1.0), (["b/0"], 0.5))
    assert placed(room, demand(2, 0.5)) == [("b/0", "b/1")]


def test_of_empty_nodes_the_smallest_is_taken() -> None:
    assert placed(Room([node("a", 4), node("b", 2)]), demand(1)) == [("b/0",)]


def test_tied_nodes_go_by_the_smallest_id() -> None:
    # What is left counts in tenths of a device: 0.55 and 0.5 are the same.
    room = taken(Room([node("a", 1), node("b", 1)]), (["a/0"], 0.45), (["b/0"], 0.5))
    assert placed(room, demand(1, 0.1)) == [("a/0",)]


def test_tied_devices_go_by_the_smallest_index() -> None:
    assert placed(taken(Room([node("a", 3)]), (["a/1"], 0.5), (["a/2"], 0.5)), demand(1, 0.5)) == [("a/1",)]


def test_work_on_the_host_goes_to_the_first_node_that_fits() -> None:
    room = Room([node("a", 1, cpus=1.0), node("b", 1, cpus=4.0), node("c", 0, cpus=4.0)])
    (placement,) = GpuPacking()(snapshot(room), asking(demand(0, cpus=2.0)))
    assert placement.node_ids == ("b",)
