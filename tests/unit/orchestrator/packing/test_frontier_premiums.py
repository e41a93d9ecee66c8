"""Premiums: who has other places to go to pays for those that some have no others than."""

from statistics import mean

import numpy as np
import pytest

from orchestrator.packing import Fragmentation, Frontier
from orchestrator.packing.frontier.premiums import _HORIZONS, _WEIGHT, Classes, Premiums
from orchestrator.schema import Demand
from orchestrator.snapshot import Room
from tests.unit.orchestrator.packing.arrivals import FOLDER, alibaba, kind_of, reweighted, unallocated
from tests.unit.orchestrator.packing.cases import asking, demand, device_ids, node, snapshot

HERE = pytest.mark.skipif(not FOLDER.exists(), reason=f"the Alibaba trace is not in {FOLDER}")
WHOLE, BROAD = demand(1), demand(1, cpus=32.0)


def premiums(room: Room, expected: dict[Demand, float], asked: Demand) -> list[float]:
    """By node."""
    found = Premiums.of(room, expected)
    return found(asked)[found.classes.of_node].tolist()


def broad_and_narrow() -> Room:
    """One device with many cores, nine with few."""
    return Room([node("a", 1, cpus=32.0), *(node(f"b{number}", 1, cpus=8.0) for number in range(9))])


def test_nodes_that_are_the_same_are_one_class() -> None:
    room = Room([node("a", 2), node("b", 2), node("c", 1), node("d", 2, model="other")])
    classes = Classes.of(room)
    assert len(set(classes.of_node.tolist())) == 3
    assert classes.of_node[0] == classes.of_node[1]
    assert sorted(classes.there[0].tolist()) == [1, 2, 4]


def test_on_nodes_that_are_all_the_same_nobody_pays() -> None:
    room = Room([node("a", 2), node("b", 2)])
    assert premiums(room, {demand(2): 9.0, WHOLE: 1.0}, WHOLE) == [0.0, 0.0]


def test_who_has_other_places_pays_for_what_is_short() -> None:
    # A fifth of what is asked for fits on a tenth of the devices.
    first, *others = premiums(broad_and_narrow(), {BROAD: 0.2, WHOLE: 0.8}, WHOLE)
    assert first == pytest.approx(_WEIGHT)
    assert others == [0.0] * 9


def test_who_has_no_other_place_pays_nothing() -> None:
    assert premiums(broad_and_narrow(), {BROAD: 0.2, WHOLE: 0.8}, BROAD) == [0.0] * 10


def test_where_there_is_enough_for_them_nobody_pays() -> None:
    assert premiums(broad_and_narrow(), {BROAD: 0.05, WHOLE: 0.95}, WHOLE) == [0.0] * 10


def test_what_is_short_at_some_of_the_horizons_costs_as_much_less() -> None:
    # The one with many cores is short at all of them, the nine others from 101 % on.
    found = premiums(broad_and_narrow(), {BROAD: 0.11, WHOLE: 0.89}, WHOLE)[0]
    assert found == pytest.approx(_WEIGHT * 2 / len(_HORIZONS))


def test_cores_that_are_short_are_paid_for_by_the_core() -> None:
    # The cores of a run out before its devices do.
    room = Room([node("a", 4, cpus=32.0), node("b", 4, cpus=8.0)])
    few, many = demand(1, cpus=1.0), demand(1, cpus=16.0)
    expected = {few: 3.0, many: 5.0}
    assert premiums(room, expected, few)[0] == pytest.approx(_WEIGHT / 16)
    assert premiums(room, expected, demand(1, cpus=2.0))[0] == pytest.approx(_WEIGHT / 8)


def test_a_gang_that_may_reach_over_nodes_fits_where_one_device_of_it_does() -> None:
    room = Room([node("a", 2, cpus=8.0), node("b", 4, cpus=8.0)])
    classes = Classes.of(room)
    assert classes.fitting(demand(4, cpus=8.0)).sum() == 1
    assert classes.fitting(demand(4, cpus=8.0, max_nodes=2)).sum() == 2


def test_nodes_without_devices_fit_nobody_who_wants_some() -> None:
    room = Room([node("a", 0, cpus=8.0), node("b", 1, cpus=8.0, model="B")])
    found = Classes.of(room)
    assert found.fitting(demand(1, models="B"))[found.of_node].tolist() == [False, True]
    assert not Classes.of(Room([node("a", 0, cpus=8.0)])).fitting(demand(1, models="B")).any()


def test_many_kinds_that_fit_on_the_same_nodes_pay_as_one_would() -> None:
    expected = {demand(1, cpus=7.0 + number / 1000): 0.8 / 50 for number in range(50)}
    found = premiums(broad_and_narrow(), {BROAD: 0.2, **expected}, WHOLE)
    assert found == pytest.approx([_WEIGHT, *[0.0] * 9])


def test_a_node_that_some_need_is_left_to_them() -> None:
    room = Room([node("a", 4, cpus=128.0), *(node(f"b{number}", 4, cpus=96.0) for number in range(3))])
    needed, half = demand(4, cpus=120.0), demand(2, cpus=60.0)
    (placement,) = Frontier(spread=0.0)(snapshot(room, {needed: 3.0, half: 2.0, WHOLE: 8.0}), asking(half))
    assert device_ids([placement]) == [("b0/0", "b0/1")]


def test_other_mixes_are_what_was_asked_for() -> None:
    if not FOLDER.exists():
        pytest.skip(f"the Alibaba trace is not in {FOLDER}")
    drawn = reweighted(alibaba(), {"gang": 0.3, "bound": 0.5}, seed=0, pods=4_000).demands
    with_devices = [one for one in drawn if one.devices]
    assert mean(kind_of(one) == "gang" for one in drawn) == pytest.approx(0.3, abs=0.03)
    assert mean(len(one.models) == 1 for one in with_devices) == pytest.approx(0.5, abs=0.03)


@HERE
@pytest.mark.slow
@pytest.mark.parametrize("mix", [{"gang": 0.6}, {"gang": 0.3}, {"part": 0.7}, {"bound": 0.3}, {"host": 0.3}], ids=str)
def test_on_other_mixes_it_leaves_less_than_gradient_descent(mix: dict[str, float]) -> None:
    left: dict[bool, list[list[float]]] = {True: [], False: []}
    for seed in range(60, 64):
        workload = reweighted(alibaba(), mix, seed)
        left[True].append(unallocated(Frontier(), workload, seed, learned=True)[0])
        left[False].append(unallocated(Fragmentation(), workload, seed)[0])
    ours, theirs = (np.mean(left[own], axis=0) for own in (True, False))
    assert (ours < theirs).all()
