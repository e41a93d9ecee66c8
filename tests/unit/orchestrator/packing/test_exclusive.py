"""exclusive: one bundle per device, held whole."""

from orchestrator.packing import Exclusive
from orchestrator.schema import Demand
from orchestrator.snapshot import Room
from tests.unit.orchestrator.packing.cases import asking, demand, device_ids, node, snapshot, taken


def placed(room: Room, *demands: Demand) -> list[tuple[str, ...]]:
    return device_ids(Exclusive()(snapshot(room), asking(*demands)))


def test_a_fraction_holds_its_device_whole() -> None:
    placements = Exclusive()(snapshot(Room([node("a", 1)])), asking(demand(1, 0.25), demand(1, 0.25)))
    assert [(p.device_ids, p.share) for p in placements] == [(("a/0",), 1.0)]


def test_a_device_with_residents_is_passed_over() -> None:
    assert placed(taken(Room([node("a", 2)]), (["a/0"], 0.25)), demand(1, 0.25)) == [("a/1",)]


def test_a_gang_takes_the_first_node_with_enough_empty_devices() -> None:
    room = taken(Room([node("a", 2), node("b", 2)]), (["a/0"], 1.0))
    assert placed(room, demand(2)) == [("b/0", "b/1")]


def test_a_gang_over_nodes_gets_empty_devices_only() -> None:
    room = taken(Room([node("a", 2), node("b", 2)]), (["a/0"], 0.25))
    assert placed(room, demand(3, 0.5, max_nodes=2)) == [("b/0", "b/1", "a/1")]


def test_tied_nodes_go_by_the_smallest_id() -> None:
    assert placed(Room([node("b", 1), node("a", 1)]), demand(1)) == [("a/0",)]


def test_tied_devices_go_by_the_smallest_index() -> None:
    assert placed(Room([node("a", 3)]), demand(2)) == [("a/0", "a/1")]
