"""first_fit: the first node that fits, and its first devices."""

from orchestrator.packing import FirstFit
from orchestrator.schema import Demand
from orchestrator.snapshot import Room
from tests.unit.orchestrator.packing.cases import asking, demand, device_ids, node, snapshot, taken


def placed(room: Room, *demands: Demand) -> list[tuple[str, ...]]:
    return device_ids(FirstFit()(snapshot(room), asking(*demands)))


def test_the_node_with_the_smallest_id_is_taken_however_empty() -> None:
    room = taken(Room([node("b", 2), node("a", 2)]), (["b/0"], 1.0))
    assert placed(room, demand(1)) == [("a/0",)]


def test_the_device_with_the_smallest_index_is_taken_however_empty() -> None:
    assert placed(taken(Room([node("a", 2)]), (["a/1"], 0.5)), demand(1, 0.5)) == [("a/0",)]


def test_a_node_without_the_cores_is_passed_over() -> None:
    assert placed(Room([node("a", 1, cpus=2.0), node("b", 1, cpus=4.0)]), demand(1, cpus=3.0)) == [("b/0",)]


def test_a_node_without_the_host_memory_is_passed_over() -> None:
    assert placed(Room([node("a", 1, host_gib=2), node("b", 1, host_gib=4)]), demand(1, host_gib=3)) == [("b/0",)]


def test_a_node_of_another_model_is_passed_over() -> None:
    assert placed(Room([node("a", 1, model="A"), node("b", 1, model="B")]), demand(1, models="B")) == [("b/0",)]
