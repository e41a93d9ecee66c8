"""alike: which nodes are alike, followed as placements come and go, against comparing all of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.packing.alike import Alike
from orchestrator.schema import Placement
from orchestrator.snapshot import Room
from tests.unit.orchestrator.simulation.workloads import node

NODES = [node("a", 2), node("b", 2), node("c", 2, cpus=8.0), node("d", 1), node("e", 2, model="A10"), node("f", 2)]


def state(room: Room, row: int) -> tuple[object, ...]:
    tables = room.share, room.memory_bytes, room.kinds, room.milli_cpus, room.host_memory_bytes, room.whole_milli_cpus
    return room.nodes[row].devices[0].model, *(table[row].tolist() for table in tables)


def pairs(room: Room) -> list[tuple[int, int]]:
    """Each node with the first that is like it."""
    rows = np.arange(len(NODES))
    first, like = Alike.of(room).first(rows)
    return list(zip(rows.tolist(), first[like].tolist(), strict=True))


def compared(room: Room) -> list[tuple[int, int]]:
    states = [state(room, row) for row in range(len(NODES))]
    return [(row, states.index(states[row])) for row in range(len(NODES))]


def test_nodes_differ_by_devices_cores_and_models() -> None:
    assert pairs(Room(NODES)) == [(0, 0), (1, 0), (2, 2), (3, 3), (4, 4), (5, 0)]


@given(taken=st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([0.25, 0.5]), st.sampled_from("xy"))))
def test_whatever_is_taken_and_given_back_they_are_those_that_have_the_same_left(
    taken: list[tuple[str, float, str]],
) -> None:
    room = Room(NODES)
    placed = []
    for name, share, kind in taken:
        placement = Placement(stage_key="", device_ids=(f"{name}/0",), share=share, memory_bytes=0)
        if room.share[room.row_of[name], 0] >= share * room.share.max():
            room.take(placement, kind)
            placed.append((placement, kind))
        assert pairs(room) == compared(room)
    for placement, kind in placed:
        room.give_back(placement, kind)
    assert pairs(room) == compared(room)
