"""The set of victims that makes room and loses the least work."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.schema import Demand, FreeDevice
from orchestrator.sharing.preemption.victims import (
    Candidate,
    NodeRoom,
    Victims,
    cheapest_first,
    kinds_by_device,
    least_lost_victims,
)
from tests.unit.orchestrator.builders import GIB, device
from tests.unit.orchestrator.ordering.requests import waiting
from tests.unit.orchestrator.sharing.snapshots import ids, resident, snapshot

WIDTH = 3


def candidate(key: str, node: str, indexes: list[int], share: float, lost: float, held_s: float) -> Candidate:
    request = waiting(key, devices=len(indexes), share=share, memory_bytes=int(share * 8) * GIB)
    made = resident(request, ids(node, *indexes))
    placement = replace(made.placement, cpus=len(indexes) * share)  # a core for each device
    return Candidate(resident=replace(made, placement=placement), node_id=node, work_lost=lost, held_s=held_s)


def rooms(candidates: list[Candidate]) -> dict[str, NodeRoom]:
    made = snapshot(nodes=(WIDTH, WIDTH), residents=[c.resident for c in candidates])
    by_node: dict[str, list[FreeDevice]] = {}
    for free in made.devices:
        by_node.setdefault(free.device.node_id, []).append(free)
    held = {node_id: sum(c.resident.placement.cpus for c in candidates if c.node_id == node_id) for node_id in by_node}
    return {node_id: NodeRoom(devices, cpus=WIDTH - held[node_id]) for node_id, devices in by_node.items()}


def demand(devices: int, share: float = 1.0, gib: int = 1) -> Demand:
    return Demand(devices=devices, share=share, memory_bytes=gib * GIB)


def anything(victims: Victims) -> bool:
    return True


def chosen(candidates: list[Candidate], wanted: Demand, sets_looked_at: int = 1000) -> list[str] | None:
    victims = least_lost_victims(rooms(candidates), cheapest_first(candidates), wanted, anything, sets_looked_at)
    return None if victims is None else sorted(v.resident.request.stage_key for v in victims)


def whole_nodes(*lost: float, held_s: float = 100.0) -> list[Candidate]:
    """One candidate on every device of two nodes."""
    return [candidate(str(n), "ab"[n // WIDTH], [n % WIDTH], 1.0, work, held_s) for n, work in enumerate(lost)]


def test_the_least_work_is_lost() -> None:
    assert chosen(whole_nodes(5, 3, 4, 9, 2, 9), demand(1)) == ["4"]


def test_a_gangs_victims_share_one_node() -> None:
    assert chosen(whole_nodes(5, 1, 9, 4, 1, 9), demand(2)) == ["3", "4"]


def test_fewer_victims_break_a_tie_of_work() -> None:
    halves = [candidate(f"half-{n}", "a", [0], 0.5, 1.0, 1.0) for n in range(2)]
    others = [candidate(f"b{n}", "b", [n], 1.0, 2.0, 100.0) for n in range(3)]
    fillers = [candidate(f"a{n}", "a", [n], 1.0, 9.0, 1.0) for n in (1, 2)]
    assert chosen([*halves, *others, *fillers], demand(1)) == ["b0"]


def test_the_youngest_breaks_a_tie_of_number() -> None:
    old = whole_nodes(1, 1, 1, 1, 1)
    young = candidate("young", "b", [2], 1.0, 1.0, 5.0)
    assert chosen([*old, young], demand(1)) == ["young"]


def test_a_gang_leaves_whole() -> None:
    gang = candidate("gang", "a", [0, 1], 1.0, 2.0, 1.0)
    rest = [candidate(f"b{n}", "b", [n], 1.0, 3.0, 1.0) for n in range(3)] + [candidate("a2", "a", [2], 1.0, 9, 1)]
    assert chosen([gang, *rest], demand(1)) == ["gang"]


def test_memory_is_room_too() -> None:
    hogs = [candidate(f"b{n}", "b", [n], 1.0, 9.0, 1.0) for n in range(3)]
    fillers = [candidate(f"a{n}", "a", [n], 1.0, 9.0, 1.0) for n in (1, 2)]
    small = candidate("small", "a", [0], 0.25, 0.0, 1.0)
    large = candidate("large", "a", [0], 0.75, 1.0, 1.0)
    assert chosen([small, large, *hogs, *fillers], demand(1, share=0.25, gib=1)) == ["small"]
    assert chosen([small, large, *hogs, *fillers], demand(1, share=0.25, gib=6)) == ["large"]


def node(
    holders: list[Candidate], *, cpus: float = 8.0, host_gib: int = 64, barred: dict[str, list[str]] | None = None
) -> NodeRoom:
    """Node a with one empty device, besides what these hold, and so many free cores and GiB."""
    devices = [
        FreeDevice(device=device(i, "a"), free_share=1.0, free_memory_bytes=8 * GIB, residents=0) for i in (0, 1)
    ]
    kinds = kinds_by_device([holder.resident for holder in holders])
    return NodeRoom(devices, cpus=cpus, host_memory_bytes=host_gib * GIB, kinds=kinds, barred=barred)


def holder(name: str, *, cpus: float = 0.0, host_gib: int = 0, lost: float = 1.0, kind: str = "") -> Candidate:
    """On the first device of node a, of which it holds nothing that anybody lacks."""
    request = waiting(name, share=0.25)
    request = replace(request, demand=replace(request.demand, kind=kind))
    made = resident(request, ids("a", 0))
    placement = replace(made.placement, cpus=cpus, host_memory_bytes=host_gib * GIB)
    return Candidate(resident=replace(made, placement=placement), node_id="a", work_lost=lost, held_s=1.0)


def chosen_on(room: NodeRoom, candidates: list[Candidate], wanted: Demand) -> list[str] | None:
    victims = least_lost_victims({"a": room}, cheapest_first(candidates), wanted, anything)
    return None if victims is None else sorted(v.resident.request.stage_key for v in victims)


def test_cores_of_the_node_are_room_too() -> None:
    few, many = holder("few", cpus=1.0, lost=0.0), holder("many", cpus=4.0)
    wanted = replace(demand(1), cpus=10.0)
    room = node([few, many])
    assert not room.makes_room(wanted)
    assert chosen_on(room, [few, many], wanted) == ["many"]
    assert chosen_on(room, [few], wanted) is None


def test_host_memory_of_the_node_is_room_too() -> None:
    small, large = holder("small", host_gib=1, lost=0.0), holder("large", host_gib=32)
    wanted = replace(demand(1), host_memory_bytes=80 * GIB)
    assert chosen_on(node([small, large]), [small, large], wanted) == ["large"]


def test_whoever_wants_cores_alone_makes_those_leave_that_hold_them() -> None:
    big = holder("big", cpus=4.0)
    wanted = Demand(devices=0, share=0.0, memory_bytes=0, cpus=12.0)
    assert chosen_on(node([big]), [big], wanted) == ["big"]


def test_a_device_of_another_model_is_no_room() -> None:
    room = node([])
    assert room.makes_room(demand(1))
    assert not room.makes_room(replace(demand(1), models=("H100",)))


def test_a_device_where_a_barred_kind_sits_is_room_only_once_that_has_left() -> None:
    sft = holder("sft", kind="sft")
    room = node([sft], barred={"grpo": ["sft"]})
    wanted = replace(demand(2), kind="grpo")
    assert not room.makes_room(wanted)
    assert room.makes_room(replace(wanted, kind="sft"))
    assert chosen_on(room, [sft], wanted) == ["sft"]
    room.give_back(sft.resident)
    assert room.makes_room(wanted)


def test_what_is_promised_is_gone_cores_and_host_memory_too() -> None:
    room = node([], cpus=8.0, host_gib=64)
    wanted = replace(demand(1, share=0.5), cpus=5.0, host_memory_bytes=40 * GIB)
    room.promise(wanted)
    assert not room.makes_room(wanted)
    assert room.makes_room(replace(wanted, cpus=3.0, host_memory_bytes=24 * GIB))


def test_of_a_gang_over_nodes_only_its_part_here_is_given_back() -> None:
    gang = holder("gang", cpus=8.0)
    spanning = replace(gang.resident.placement, device_ids=(*ids("a", 0), *ids("b", 0)), node_ids=("a", "b"))
    room = node([gang], cpus=0.0)
    room.give_back(replace(gang.resident, placement=spanning))
    assert room.makes_room(replace(demand(1), cpus=4.0))
    assert not room.makes_room(replace(demand(1), cpus=5.0))


def test_if_all_together_would_not_do_nobody_is_chosen() -> None:
    assert chosen(whole_nodes(1, 1, 1), demand(WIDTH + 1)) is None


SETS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sets(st.integers(0, WIDTH - 1), min_size=1, max_size=2),
        st.sampled_from([0.25, 0.5, 1.0]),
        st.integers(0, 4),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=6,
)
WANTED = st.builds(
    lambda devices, share, gib, cpus: replace(demand(devices, share, gib), cpus=cpus),
    st.integers(1, 3),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.integers(0, 6),
    st.sampled_from([0.0, 0.0, 0.5, 1.5, 3.0]),
)


def fill(rows: list) -> list[Candidate]:
    """As many of the rows as there is room for; devices that stay empty get a candidate of their own."""
    made: list[Candidate] = []
    used: dict[tuple[str, int], float] = {}
    for n, (node, indexes, share, lost, held_s) in enumerate(rows):
        if all(used.get((node, i), 0.0) + share <= 1.0 for i in indexes):
            made.append(candidate(str(n), node, sorted(indexes), share, float(lost), float(held_s)))
            used.update({(node, i): used.get((node, i), 0.0) + share for i in indexes})
    empty = [(node, i) for node in "ab" for i in range(WIDTH) if (node, i) not in used]
    return made + [candidate(f"{node}{i}", node, [i], 1.0, 3.0, 1.0) for node, i in empty]


def cost(victims: tuple[Candidate, ...]) -> tuple[float, int, float]:
    return sum(v.work_lost for v in victims), len(victims), sum(v.held_s for v in victims)


def not_both_first(victims: Victims) -> bool:
    """An arbitrary rule of which every part of an allowed set is allowed."""
    return len([v for v in victims if v.work_lost < 2]) < 2


def brute_force(
    candidates: list[Candidate], wanted: Demand, allowed: Callable[[Victims], bool]
) -> tuple[float, int, float] | None:
    nodes = rooms(candidates)
    sets = [
        victims
        for size in range(1, len(candidates) + 1)
        for victims in combinations(candidates, size)
        if len({v.node_id for v in victims}) == 1
        and allowed(victims)
        and nodes[victims[0].node_id].makes_room(wanted, victims)
    ]
    return min(map(cost, sets), default=None)


@settings(max_examples=100)
@given(rows=SETS, wanted=WANTED)
def test_equals_trying_every_set(rows: list, wanted: Demand) -> None:
    candidates = fill(rows)
    assume(not any(node.makes_room(wanted) for node in rooms(candidates).values()))
    for allowed in (anything, not_both_first):
        victims = least_lost_victims(rooms(candidates), cheapest_first(candidates), wanted, allowed)
        assert (None if victims is None else cost(victims)) == brute_force(candidates, wanted, allowed)


@settings(max_examples=100)
@given(rows=SETS, wanted=WANTED)
def test_the_greedy_choice_makes_room_with_nobody_to_spare(rows: list, wanted: Demand) -> None:
    candidates = fill(rows)
    nodes = rooms(candidates)
    assume(not any(node.makes_room(wanted) for node in nodes.values()))
    victims = least_lost_victims(nodes, cheapest_first(candidates), wanted, anything, sets_looked_at=0)
    assert (victims is None) == (brute_force(candidates, wanted, anything) is None)
    if victims is not None:
        node = nodes[victims[0].node_id]
        assert {v.node_id for v in victims} == {victims[0].node_id}
        assert node.makes_room(wanted, victims)
        assert not any(node.makes_room(wanted, [v for v in victims if v is not spare]) for spare in victims)
