"""dot_product: away from nodes that have much left of what is asked for."""

from orchestrator.packing import DotProduct
from orchestrator.schema import Demand
from orchestrator.snapshot import Room
from tests.unit.orchestrator.packing.cases import asking, demand, device_ids, node, snapshot, taken


def placed(room: Room, *demands: Demand, largest: bool = False) -> list[tuple[str, ...]]:
    return device_ids(DotProduct(largest=largest)(snapshot(room), asking(*demands)))


def many_cores_or_many_devices() -> Room:
    return Room([node("a", 2, cpus=64.0), node("b", 8, cpus=16.0)])


def test_who_asks_for_devices_goes_where_few_are_left() -> None:
    assert placed(many_cores_or_many_devices(), demand(2, cpus=1.0)) == [("a/0", "a/1")]


def test_who_asks_for_cores_goes_where_few_are_left() -> None:
    assert placed(many_cores_or_many_devices(), demand(1, 0.1, cpus=16.0)) == [("b/0",)]


def test_with_the_largest_product_it_is_the_other_way_round() -> None:
    assert placed(many_cores_or_many_devices(), demand(2, cpus=1.0), largest=True) == [("b/0", "b/1")]


def test_products_of_the_same_whole_percent_are_tied_and_go_by_the_smallest_id() -> None:
    # 2 % of 8 devices times 100 % or 87.5 % left is less than a percent apart.
    room = taken(Room([node("a", 8), node("b", 8)]), (["b/0"], 1.0))
    assert placed(room, demand(1, 0.16)) == [("a/0",)]
    assert placed(room, demand(2)) == [("b/1", "b/2")]


def test_on_the_node_the_fullest_device_is_taken_and_ties_go_by_the_smallest_index() -> None:
    room = taken(Room([node("a", 4)]), (["a/1"], 0.5), (["a/2"], 0.5))
    assert placed(room, demand(1, 0.5)) == [("a/1",)]
