"""gpu_clustering: like beside like."""

from orchestrator.packing import GpuClustering
from orchestrator.schema import Demand
from orchestrator.snapshot import Room
from tests.unit.orchestrator.packing.cases import asking, demand, device_ids, node, snapshot, taken


def placed(room: Room, *demands: Demand) -> list[tuple[str, ...]]:
    return device_ids(GpuClustering()(snapshot(room), asking(*demands)))


def test_a_part_of_a_device_goes_where_only_parts_are() -> None:
    room = taken(Room([node("a", 4), node("b", 4)]), (["a/0", "a/1"], 1.0), (["b/0"], 0.1))
    assert placed(room, demand(1, 0.2)) == [("b/0",)]


def test_a_gang_goes_where_only_gangs_of_its_size_are() -> None:
    room = taken(Room([node("a", 8), node("b", 8)]), (["a/0"], 1.0), (["b/0", "b/1"], 1.0))
    assert placed(room, demand(2)) == [("b/2", "b/3")]


def test_where_such_sit_with_others_goes_before_an_empty_node() -> None:
    room = taken(Room([node("a", 4), node("b", 4)]), (["b/0"], 0.5), (["b/1"], 1.0))
    assert placed(room, demand(1)) == [("b/2",)]


def test_an_empty_node_goes_before_one_with_others() -> None:
    room = taken(Room([node("a", 4), node("b", 4)]), (["a/0"], 0.5))
    assert placed(room, demand(2)) == [("b/0", "b/1")]


def test_who_left_is_not_counted() -> None:
    room = Room([node("a", 4), node("b", 4)])
    (placement,) = GpuClustering()(snapshot(room), asking(demand(1, 0.5)))
    room.take(placement)
    room.give_back(placement)
    assert placed(taken(room, (["b/0"], 1.0)), demand(1, 0.5)) == [("a/0",)]


def test_among_like_nodes_the_one_with_the_least_left_is_taken() -> None:
    room = taken(Room([node("a", 4), node("b", 4)]), (["a/0"], 0.5), (["b/0"], 0.5), (["b/1"], 0.9))
    assert placed(room, demand(1, 0.5)) == [("b/0",)]


def test_tied_nodes_go_by_the_smallest_id() -> None:
    # What is left counts in 25 steps of the largest node.
    room = taken(Room([node("a", 4), node("b", 4)]), (["a/0"], 0.5), (["b/0"], 0.51))
    assert placed(room, demand(1, 0.1)) == [("a/0",)]


def test_tied_devices_go_by_the_smallest_index() -> None:
    assert placed(Room([node("a", 3)]), demand(1, 0.5)) == [("a/0",)]
