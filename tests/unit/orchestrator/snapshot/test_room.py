"""What is left of devices and nodes, while bundles come and go."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.schema import Node, Placement
from orchestrator.snapshot import Room, room, share_units
from tests.unit.orchestrator.packing.cases import CONFLICTS, GIB, NODES, asking, demand, node, taken

ARRAYS = ("share", "memory_bytes", "residents", "kinds", "sizes", "milli_cpus", "host_memory_bytes")
SHARES = st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.81, 1.0])
KINDS = st.sampled_from(["", "learn", "rollout"])


def state(of: Room) -> dict[str, list]:
    return {name: getattr(of, name).tolist() for name in ARRAYS}


@st.composite
def placements(draw: st.DrawFn, nodes: Sequence[Node]) -> Placement:
    """Anything on some devices or on one node, whether there is as much or not."""
    devices = [device for n in nodes for device in n.devices]
    chosen = draw(st.lists(st.sampled_from(devices), max_size=4, unique=True)) if devices else []
    node_ids = tuple(device.node_id for device in chosen) or (draw(st.sampled_from(nodes)).node_id,)
    return Placement(
        stage_key="",
        device_ids=tuple(device.device_id for device in chosen),
        share=draw(SHARES),
        memory_bytes=draw(st.integers(0, 2**33)),
        node_ids=node_ids,
        cpus=draw(st.floats(0, 10)),
        host_memory_bytes=draw(st.integers(0, 2**35)),
    )


@settings(max_examples=200, deadline=None)
@given(data=st.data(), nodes=NODES.filter(bool))
def test_whatever_is_taken_and_given_back_leaves_nothing_behind(data: st.DataObject, nodes: list) -> None:
    held = data.draw(st.lists(st.tuples(placements(nodes), KINDS), max_size=6))
    order = data.draw(st.permutations(held))
    tested = Room(nodes)
    for placement, kind in held:
        tested.take(placement, kind)
    for placement, kind in order:
        tested.give_back(placement, kind)
    assert state(tested) == state(Room(nodes))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), nodes=NODES.filter(bool))
def test_the_order_of_takers_does_not_matter(data: st.DataObject, nodes: list) -> None:
    held = data.draw(st.lists(st.tuples(placements(nodes), KINDS), max_size=6))
    one, other = Room(nodes), Room(nodes)
    for kind in ("learn", "rollout"):  # bits of kinds go by who came first
        one.kind_bit(kind), other.kind_bit(kind)
    for placement, kind in held:
        one.take(placement, kind)
    for placement, kind in reversed(held):
        other.take(placement, kind)
    assert state(one) == state(other)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), nodes=NODES.filter(bool))
def test_the_rows_that_differ_are_among_the_changed_ones(data: st.DataObject, nodes: list) -> None:
    tested = Room(nodes)
    seen = [(tested.revision, tested.copy())]
    for placement in data.draw(st.lists(placements(nodes), max_size=6)):
        tested.take(placement)
        seen.append((tested.revision, tested.copy()))
    for revision, then in seen:
        changed = tested.changed_since(revision)
        assert changed is not None
        assert len(set(changed)) == len(changed)
        differ = [getattr(tested, name) != getattr(then, name) for name in ARRAYS]
        differ_rows = {row for row in range(len(nodes)) if any(found[row].any() for found in differ)}
        assert differ_rows <= set(changed)


def test_nothing_changed_since_now() -> None:
    tested = taken(Room([node("a", 1), node("b", 1)]), (["a/0"], 0.5))
    assert tested.changed_since(tested.revision) == []


def test_who_looks_too_seldom_looks_at_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_REMEMBERED", 2)
    tested = Room([node("a", 1), node("b", 1)])
    for _ in range(5):
        taken(tested, (["b/0"], 0.1))
    assert tested.changed_since(0) is None
    assert tested.changed_since(tested.revision - 1) == [1]


@settings(deadline=None)
@given(data=st.data(), nodes=NODES.filter(bool), conflicts=CONFLICTS)
def test_a_copy_is_now_as_its_original_and_goes_its_own_way(data: st.DataObject, nodes: list, conflicts: dict) -> None:
    tested = Room(nodes)
    tested.bar(conflicts)
    for placement in data.draw(st.lists(placements(nodes), max_size=3)):
        tested.take(placement, "learn")
    before, copied = state(tested), tested.copy()
    assert state(copied) == before
    asked = demand(1, 0.1, kind="rollout")
    assert copied.fitting(asked).tolist() == tested.fitting(asked).tolist()
    copied.take(data.draw(placements(nodes)), "rollout")
    assert state(tested) == before


def test_what_an_attempt_places_is_undone() -> None:
    tested = Room([node("a", 2, cpus=4.0, host_gib=8)])
    before = state(tested)
    with tested.attempt():
        tested.place(asking(demand(1, 0.5, gib=2, cpus=1.0, host_gib=2, kind="learn"))[0], ((0, (1,)),))
        assert tested.share.tolist() == [[share_units(1.0), share_units(0.5)]]
    assert state(tested) == before


def test_an_attempt_that_fails_is_undone() -> None:
    tested = Room([node("a", 1)])
    before = state(tested)

    def fail_half_way() -> None:
        with tested.attempt():
            tested.place(asking(demand())[0], ((0, (0,)),))
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert state(tested) == before


def test_nobody_places_outside_an_attempt() -> None:
    with pytest.raises(AssertionError, match="inside an attempt"):
        Room([node("a", 1)]).place(asking(demand())[0], ((0, (0,)),))


@pytest.mark.parametrize(("share", "count"), [(0.1, 10), (0.2, 5), (1 / 3, 3), (0.7, 1), (1 / 7, 7)])
def test_equal_shares_fill_a_device(share: float, count: int) -> None:
    tested = Room([node("a", 1)])
    for _ in range(count):
        assert tested.fitting(demand(1, share)).all()
        taken(tested, (["a/0"], share))
    assert not tested.fitting(demand(1, share)).any()


def test_nodes_are_rows_by_id_and_devices_are_columns_by_index() -> None:
    shuffled = Node(node_id="a", devices=tuple(reversed(node("a", 2).devices)))
    tested = Room([node("b", 1), shuffled])
    assert [n.node_id for n in tested.nodes] == ["a", "b"]
    assert tested.cell_of == {"a/0": (0, 0), "a/1": (0, 1), "b/0": (1, 0)}


def test_what_a_smaller_node_lacks_fits_nothing() -> None:
    tested = Room([node("a", 2), node("b", 1)])
    assert tested.fitting(demand(1, 1e-9)).tolist() == [[True, True], [True, False]]


def test_a_node_fits_by_its_cores_and_host_memory() -> None:
    tested = Room([node("a", 1, cpus=2.0, host_gib=4), node("b", 1, cpus=4.0, host_gib=2), node("c", 1)])
    assert tested.node_fits(demand(cpus=3.0)).tolist() == [False, True, True]
    assert tested.node_fits(demand(host_gib=3)).tolist() == [True, False, True]
    assert tested.fitting_nodes(demand(cpus=2.0, host_gib=2)).tolist() == [True, True, True]


def test_a_node_fits_a_gang_that_has_enough_devices_there() -> None:
    tested = taken(Room([node("a", 2), node("b", 2)]), (["a/0"], 0.6))
    assert tested.fitting_nodes(demand(2, 0.5)).tolist() == [False, True]


def test_only_devices_of_the_models_asked_for_fit() -> None:
    tested = Room([node("a", 1, model="A"), node("b", 1, model="B"), node("c", 1, model="C")])
    assert tested.fitting(demand(1, models=["A", "C"]))[:, 0].tolist() == [True, False, True]
    assert not tested.fitting(demand(1, models=["none of these"])).any()
    assert tested.models == ("A", "B", "C")


def test_where_a_barred_kind_sits_a_request_does_not_fit() -> None:
    tested = Room([node("a", 2)])
    tested.take(Placement(stage_key="", device_ids=("a/0",), share=0.5, memory_bytes=0), "learn")
    tested.bar({"rollout": ("learn",)})
    assert tested.fitting(demand(1, 0.5, kind="rollout")).tolist() == [[False, True]]
    assert tested.fitting(demand(1, 0.5, kind="learn")).tolist() == [[True, True]]


def test_a_bar_ends_when_another_takes_its_place() -> None:
    tested = Room([node("a", 1)])
    tested.take(Placement(stage_key="", device_ids=("a/0",), share=0.5, memory_bytes=0), "learn")
    tested.bar({"rollout": ("learn",)})
    before = tested.revision
    tested.bar({})
    assert tested.changed_since(before) is None
    assert tested.fitting(demand(1, 0.5, kind="rollout")).all()


def test_a_kind_sits_there_until_the_last_of_it_leaves() -> None:
    tested = Room([node("a", 1)])
    placement = Placement(stage_key="", device_ids=("a/0",), share=0.25, memory_bytes=0)
    tested.bar({"rollout": ("learn",)})
    tested.take(placement, "learn")
    tested.take(placement, "learn")
    tested.give_back(placement, "learn")
    assert not tested.fitting(demand(1, 0.25, kind="rollout")).any()
    tested.give_back(placement, "learn")
    assert tested.fitting(demand(1, 0.25, kind="rollout")).all()


def test_many_kinds_share_the_last_bit() -> None:
    tested = Room([node("a", 1)])
    bits = [tested.kind_bit(f"kind-{n}") for n in range(70)]
    assert len(set(bits)) == 62
    assert bits[61:] == [1 << 61] * 9


def test_a_gang_over_nodes_takes_of_each_by_its_devices() -> None:
    tested = Room([node("a", 2, cpus=8.0, host_gib=9), node("b", 1, cpus=8.0, host_gib=9)])
    gang = Placement(
        stage_key="",
        device_ids=("a/0", "b/0", "a/1"),
        share=1.0,
        memory_bytes=0,
        node_ids=("a", "b", "a"),
        cpus=6.0,
        host_memory_bytes=6 * GIB,
    )
    tested.take(gang)
    assert tested.milli_cpus.tolist() == [4000, 6000]
    assert tested.host_memory_bytes.tolist() == [5 * GIB, 7 * GIB]


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=3), cpus=st.floats(0, 9), memory=st.integers(0, 10**6))
def test_the_parts_of_a_gang_are_rounded_up_at_most_and_are_all_of_it(
    counts: list[int], cpus: float, memory: int
) -> None:
    nodes = [node("abc"[n], count, cpus=16.0, host_gib=16) for n, count in enumerate(counts)]
    devices = [device for n in nodes for device in n.devices]
    tested = Room(nodes)
    tested.take(
        Placement(
            stage_key="",
            device_ids=tuple(device.device_id for device in devices),
            share=1.0,
            memory_bytes=0,
            node_ids=tuple(device.node_id for device in devices),
            cpus=cpus,
            host_memory_bytes=memory,
        )
    )
    milli = round(cpus * 1000)
    gave = (tested.whole_milli_cpus - tested.milli_cpus).tolist()
    gave_bytes = (tested.whole_host_memory_bytes - tested.host_memory_bytes).tolist()
    assert (sum(gave), sum(gave_bytes)) == (milli, memory)
    for given_here, given_bytes, count in zip(gave, gave_bytes, counts, strict=True):
        assert given_here <= -(-milli * count // len(devices))
        assert given_bytes <= -(-memory * count // len(devices))


def test_a_placement_that_does_not_name_its_nodes_takes_of_those_of_its_devices() -> None:
    tested = Room([node("a", 1, cpus=4.0)])
    tested.take(Placement(stage_key="", device_ids=("a/0",), share=1.0, memory_bytes=0, cpus=1.0))
    assert tested.milli_cpus.tolist() == [3000]


def test_devices_and_nodes_that_are_not_here_are_passed_over() -> None:
    tested = Room([node("a", 1, cpus=4.0)])
    gone = Placement(stage_key="", device_ids=("z/0",), share=1.0, memory_bytes=0, node_ids=("z",), cpus=1.0)
    tested.take(gone, "learn")
    assert state(tested) == state(Room([node("a", 1, cpus=4.0)]))


def test_who_sits_on_a_node_is_counted_by_the_devices_held() -> None:
    tested = taken(Room([node("a", 4)]), (["a/0"], 0.5), (["a/0"], 0.1), (["a/1"], 1.0), (["a/2", "a/3"], 1.0))
    assert tested.sizes.tolist() == [[2, 1, 1, 0, 0]]


def test_work_on_the_host_is_not_counted_by_devices() -> None:
    tested = Room([node("a", 1, cpus=4.0)])
    tested.take(Placement(stage_key="", device_ids=(), share=1.0, memory_bytes=0, node_ids=("a",), cpus=1.0))
    assert (tested.sizes.tolist(), tested.milli_cpus.tolist()) == ([[0, 0]], [3000])


def test_what_is_free_is_said_device_by_device() -> None:
    tested = taken(Room([node("b", 1), node("a", 1)]), (["b/0"], 0.25))
    free = tested.free()
    assert [(f.device.device_id, f.free_share, f.free_memory_bytes, f.residents) for f in free] == [
        ("a/0", 1.0, 8 * GIB, 0),
        ("b/0", 0.75, 8 * GIB, 1),
    ]
    assert tested.free() is free
    assert taken(tested, (["a/0"], 0.5)).free()[0].free_share == 0.5


def test_capacity_is_what_all_nodes_have_empty() -> None:
    capacity = taken(Room([node("a", 2, cpus=4.0, host_gib=1), node("b", 1, cpus=2.0)]), (["a/0"], 1.0)).capacity()
    assert (capacity.devices, capacity.cpus, capacity.host_memory_bytes) == (3.0, 6.0, float(GIB))


def test_a_room_without_nodes_fits_nothing() -> None:
    assert Room([]).fitting_nodes(demand()).tolist() == []
    assert not Room([]).free()
