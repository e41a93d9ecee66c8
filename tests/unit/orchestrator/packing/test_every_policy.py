"""What holds for every packing policy, on random rooms and queues, while bundles come and go."""

from collections.abc import Sequence
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import SCHEMAS, PolicyConfig
from orchestrator.packing import PACKINGS
from orchestrator.schema import Demand, Node, Placement, Request
from orchestrator.snapshot import Room
from tests.unit.orchestrator.packing.cases import (
    CONFLICTS,
    DEMANDS,
    EXPECTED,
    NODES,
    QUEUES,
    REPEATING,
    asking,
    demand,
    node,
    snapshot,
)

EVERY = pytest.mark.parametrize("name", sorted(PACKINGS))
# Frontier may let others pass while it keeps devices for one that waits; optimal knows no turns.
IN_ORDER = pytest.mark.parametrize("name", sorted(set(PACKINGS) - {"frontier", "optimal"}))


def filled(name: str, nodes: Sequence[Node], queue: Sequence[Demand], leaving: int) -> tuple[Room, list[Placement]]:
    """A room where the policy placed a queue, then every `leaving`-th left; and who sits there."""
    room = Room(nodes)
    kinds = {request.stage_key: request.demand.kind for request in asking(*queue)}
    placements = list(PACKINGS[name]()(snapshot(room), asking(*queue)))
    for placement in placements:
        room.take(placement, kinds[placement.stage_key])
    for placement in placements[::leaving]:
        room.give_back(placement, kinds[placement.stage_key])
    del placements[::leaving]
    return room, placements


def of_node(placement: Placement, node_id: str) -> float:
    """The part of the placement's cores and host memory that the node gives."""
    return placement.node_ids.count(node_id) / len(placement.node_ids)


@EVERY
@settings(max_examples=50, deadline=None)
@given(nodes=NODES, before=QUEUES, queue=QUEUES, leaving=st.integers(1, 4))
def test_no_device_and_no_node_gives_more_than_it_has(
    name: str, nodes: list, before: list, queue: list, leaving: int
) -> None:
    room, sitting = filled(name, nodes, before, leaving)
    sitting += PACKINGS[name]()(snapshot(room), asking(*queue, first=100))
    for n in nodes:
        for device in n.devices:
            held = [p for p in sitting if device.device_id in p.device_ids]
            assert sum(p.share for p in held) <= 1 + 1e-6
            assert sum(p.memory_bytes for p in held) <= device.memory_bytes
        here = [p for p in sitting if n.node_id in p.node_ids]
        assert not n.cpus or sum(p.cpus * of_node(p, n.node_id) for p in here) <= n.cpus + 1e-3 * len(here)
        memory = sum(p.host_memory_bytes * of_node(p, n.node_id) for p in here)
        assert not n.host_memory_bytes or memory <= n.host_memory_bytes + len(here)


@EVERY
@settings(max_examples=50, deadline=None)
@given(nodes=NODES, queue=QUEUES)
def test_a_placement_is_what_was_asked_for(name: str, nodes: list, queue: list) -> None:
    asked = {request.stage_key: request.demand for request in asking(*queue)}
    devices = {device.device_id: device for n in nodes for device in n.devices}
    for placement in PACKINGS[name]()(snapshot(Room(nodes)), asking(*queue)):
        wanted = asked.pop(placement.stage_key)
        assert len(set(placement.device_ids)) == len(placement.device_ids) == wanted.devices
        assert placement.share >= wanted.share
        assert placement.memory_bytes >= wanted.memory_bytes
        assert (placement.cpus, placement.host_memory_bytes) == (wanted.cpus, wanted.host_memory_bytes)
        assert not wanted.models or all(devices[d].model in wanted.models for d in placement.device_ids)
        assert len(set(placement.node_ids)) <= wanted.max_nodes
        if wanted.devices:
            assert placement.node_ids == tuple(devices[d].node_id for d in placement.device_ids)
        else:
            assert len(placement.node_ids) == 1


@EVERY
@settings(max_examples=50, deadline=None)
@given(nodes=NODES, before=QUEUES, queue=QUEUES, leaving=st.integers(1, 4), conflicts=CONFLICTS)
def test_nobody_sits_beside_whom_it_may_not_sit_beside(
    name: str, nodes: list, before: list, queue: list, leaving: int, conflicts: dict
) -> None:
    room, sitting = filled(name, nodes, before, leaving)
    kinds = {request.stage_key: request.demand.kind for request in asking(*before)}
    room.bar(conflicts)
    for request in asking(*queue, first=100):
        for placement in PACKINGS[name]()(snapshot(room), [request]):
            beside = [p for p in sitting if set(p.device_ids) & set(placement.device_ids)]
            barred = conflicts.get(request.demand.kind, ())
            assert not [p for p in beside if kinds[p.stage_key] in barred]


@IN_ORDER
@settings(max_examples=50, deadline=None)
@given(nodes=NODES, queue=QUEUES)
def test_nobody_overtakes(name: str, nodes: list, queue: list) -> None:
    placed = [p.stage_key for p in PACKINGS[name]()(snapshot(Room(nodes)), asking(*queue))]
    assert placed == [r.stage_key for r in asking(*queue)][: len(placed)]


def fits_alone(nodes: Sequence[Node], wanted: Demand) -> bool:
    """Whether an empty node can host it, by what the nodes say."""
    for n in nodes:
        fitting = [
            device
            for device in n.devices
            if device.memory_bytes >= wanted.memory_bytes and (not wanted.models or device.model in wanted.models)
        ]
        cpus = not n.cpus or wanted.cpus <= n.cpus
        memory = not n.host_memory_bytes or wanted.host_memory_bytes <= n.host_memory_bytes
        if len(fitting) >= wanted.devices and cpus and memory:
            return True
    return False


@EVERY
@settings(max_examples=50, deadline=None)
@given(nodes=NODES, wanted=DEMANDS)
def test_whatever_fits_an_empty_node_is_placed(name: str, nodes: list, wanted: Demand) -> None:
    placements = PACKINGS[name]()(snapshot(Room(nodes)), asking(replace(wanted, max_nodes=1)))
    assert len(placements) == fits_alone(nodes, wanted)


@EVERY
@settings(max_examples=50, deadline=None)
@given(nodes=NODES, before=QUEUES, wanted=DEMANDS, leaving=st.integers(1, 4))
def test_whatever_fits_beside_others_is_placed(
    name: str, nodes: list, before: list, wanted: Demand, leaving: int
) -> None:
    room, _ = filled(name, nodes, before, leaving)
    asked = replace(wanted, share=1.0) if name == "exclusive" else wanted
    fits = bool(room.fitting_nodes(asked).any())
    assert len(PACKINGS[name]()(snapshot(room), asking(replace(wanted, max_nodes=1)))) == fits


@EVERY
@settings(max_examples=50, deadline=None)
@given(
    nodes=NODES,
    queues=REPEATING,
    leaving=st.integers(1, 4),
    conflicts=st.lists(CONFLICTS, min_size=5, max_size=5),
    expected=st.lists(EXPECTED, min_size=2, max_size=2),
)
def test_what_is_kept_in_a_room_changes_no_answer(
    name: str, nodes: list, queues: list, leaving: int, conflicts: list, expected: list
) -> None:
    room, policy = Room(nodes), PACKINGS[name]()
    sitting: list[tuple[Placement, Request]] = []
    for turn, queue in enumerate(queues):
        room.bar(conflicts[turn])
        # What is expected changes half way.
        known = expected[turn * 2 // len(queues)]
        requests = asking(*queue, first=100 * turn)
        placements = policy(snapshot(room, known), requests)
        assert placements == policy(snapshot(room.copy(), known), requests)
        for placement in placements:
            request = next(r for r in requests if r.stage_key == placement.stage_key)
            room.take(placement, request.demand.kind)
            sitting.append((placement, request))
        for placement, request in sitting[::leaving]:
            room.give_back(placement, request.demand.kind)
        del sitting[::leaving]


@EVERY
@settings(max_examples=50, deadline=None)
@given(nodes=NODES, queue=QUEUES)
def test_a_policy_leaves_the_room_as_it_was(name: str, nodes: list, queue: list) -> None:
    room = Room(nodes)
    PACKINGS[name]()(snapshot(room), asking(*queue))
    assert room.free() == Room(nodes).free()
    assert room.milli_cpus.tolist() == Room(nodes).milli_cpus.tolist()
    assert room.host_memory_bytes.tolist() == Room(nodes).host_memory_bytes.tolist()


@EVERY
def test_the_same_question_gets_the_same_answer(name: str) -> None:
    nodes = [node(node_id, 4) for node_id in "abcdef"]
    queue = asking(*[demand(1, 0.3), demand(2), demand(1, 0.1)] * 3)
    assert PACKINGS[name]()(snapshot(Room(nodes)), queue) == PACKINGS[name]()(snapshot(Room(nodes)), queue)


@EVERY
def test_without_nodes_nothing_is_placed(name: str) -> None:
    assert not PACKINGS[name]()(snapshot(Room([])), asking(demand(), demand(0, cpus=1.0)))


@EVERY
def test_without_requests_nothing_is_placed(name: str) -> None:
    assert not PACKINGS[name]()(snapshot(Room([node("a", 1)])), [])


@EVERY
def test_a_gang_reaches_over_nodes_where_it_may(name: str) -> None:
    (placement,) = PACKINGS[name]()(snapshot(Room([node("a", 2), node("b", 2)])), asking(demand(3, max_nodes=2)))
    assert sorted(placement.node_ids) in (["a", "a", "b"], ["a", "b", "b"])


@EVERY
def test_its_knobs_are_those_of_its_config(name: str) -> None:
    schema = SCHEMAS.get(("packing", f"base_{name}"), PolicyConfig)
    knobs = {f.name: f.default for f in fields(schema) if f.name != "name"}
    assert {f.name: f.default for f in fields(PACKINGS[name])} == knobs
