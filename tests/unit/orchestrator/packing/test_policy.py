"""How most policies serve a queue, and gangs over several nodes."""

from itertools import combinations

from hypothesis import given, settings

from orchestrator.packing.policy import spanning
from orchestrator.schema import Demand, Node
from orchestrator.snapshot import Room, milli_cpus
from tests.unit.orchestrator.packing.cases import DEMANDS, NODES, asking, demand, node, taken


def parts_of(n: Node, wanted: Demand) -> int:
    """How many devices' parts of the demand an empty node can give."""
    most = sum(
        device.memory_bytes >= wanted.memory_bytes and (not wanted.models or device.model in wanted.models)
        for device in n.devices
    )
    while most and n.cpus and milli_cpus(wanted.cpus) * most > milli_cpus(n.cpus) * wanted.devices:
        most -= 1
    while most and n.host_memory_bytes and wanted.host_memory_bytes * most > n.host_memory_bytes * wanted.devices:
        most -= 1
    return most


@settings(max_examples=400, deadline=None)
@given(nodes=NODES, wanted=DEMANDS)
def test_a_gang_spans_the_fewest_nodes_that_have_the_parts(nodes: list, wanted: Demand) -> None:
    parts = [parts_of(n, wanted) for n in nodes]
    fewest = next(
        (
            size
            for size in range(1, min(wanted.max_nodes, len(nodes)) + 1)
            if any(sum(chosen) >= wanted.devices for chosen in combinations(parts, size))
        ),
        None,
    )
    spot = spanning(Room(nodes), wanted)
    if wanted.devices < 2 or wanted.max_nodes < 2 or fewest is None:
        assert spot is None
    else:
        assert spot is not None
        assert len(spot) == fewest
        assert sum(len(columns) for _, columns in spot) == wanted.devices


def test_a_gang_takes_of_each_node_in_proportion_to_its_devices() -> None:
    room = Room([node("a", 2, cpus=8.0, host_gib=8), node("b", 1, cpus=8.0, host_gib=8)])
    wanted = demand(3, max_nodes=2, cpus=3.0, host_gib=6)
    with room.attempt():
        room.place(asking(wanted)[0], spanning(room, wanted) or ())
        assert room.milli_cpus.tolist() == [6000, 7000]
        assert (room.host_memory_bytes // 2**30).tolist() == [4, 6]


def test_a_node_is_asked_for_no_more_cores_than_it_has() -> None:
    # In all 4 cores for 4 devices: a has the devices but cores for one of them only.
    room = Room([node("a", 4, cpus=1.0), node("b", 3, cpus=8.0)])
    assert spanning(room, demand(4, max_nodes=2, cpus=4.0)) == ((1, (0, 1, 2)), (0, (0,)))


def test_a_node_that_does_not_say_its_cores_is_no_limit() -> None:
    assert spanning(Room([node("a", 8), node("b", 8)]), demand(16, max_nodes=2, cpus=64.0)) is not None


def test_no_more_nodes_are_spanned_than_may_be() -> None:
    room = Room([node(node_id, 1) for node_id in "abc"])
    assert spanning(room, demand(3, max_nodes=2)) is None
    assert spanning(room, demand(3, max_nodes=3)) == ((0, (0,)), (1, (0,)), (2, (0,)))


def test_nodes_with_as_many_devices_go_by_the_smallest_id() -> None:
    room = Room([node("c", 2), node("b", 2), node("a", 2)])
    assert [room.nodes[row].node_id for row, _ in spanning(room, demand(4, max_nodes=2)) or ()] == ["a", "b"]


def test_on_a_node_the_first_devices_are_taken() -> None:
    room = taken(Room([node("a", 3), node("b", 2)]), (["a/1"], 1.0))
    assert spanning(room, demand(3, max_nodes=2)) == ((0, (0, 2)), (1, (0,)))
