"""optimal: the most device share, by a mixed-integer program."""

from collections.abc import Iterable
from itertools import permutations
from random import Random

import pytest

from orchestrator.packing import Optimal
from orchestrator.packing.optimal import Unsolved
from orchestrator.schema import Demand, Placement, Request
from orchestrator.snapshot import Room
from tests.unit.orchestrator.packing.cases import asking, demand, device_ids, node, snapshot, taken
from tests.unit.orchestrator.packing.small_cases import small_case


def keys(room: Room, *demands: Demand) -> list[str]:
    return [placement.stage_key for placement in Optimal()(snapshot(room), asking(*demands))]


def share_of(placements: Iterable[Placement]) -> float:
    return sum(len(placement.device_ids) * placement.share for placement in placements)


def test_the_larger_share_is_placed_whoever_came_first() -> None:
    assert keys(Room([node("a", 1)]), demand(1, 0.3), demand(1)) == ["1"]


def test_parts_are_cut_so_that_most_fits() -> None:
    # In order 0.6 would sit with 0.3, and 0.4 and 0.5 on the other device: 0.7 would find no room.
    assert len(keys(Room([node("a", 2)]), *[demand(1, share) for share in (0.6, 0.3, 0.4, 0.7)])) == 4


def test_of_equal_shares_the_earlier_is_placed() -> None:
    assert keys(Room([node("a", 1)]), demand(1, 0.7), demand(1, 0.7)) == ["0"]


def test_work_without_devices_is_placed_where_it_costs_no_share() -> None:
    room = Room([node("a", 1, cpus=4.0), node("b", 0, cpus=4.0)])
    placements = Optimal()(snapshot(room), asking(demand(0, cpus=4.0), demand(1, cpus=4.0)))
    assert [placement.node_ids for placement in placements] == [("b",), ("a",)]


def test_a_gang_takes_no_more_nodes_than_it_may() -> None:
    room = Room([node("a", 1), node("b", 1), node("c", 1)])
    assert keys(room, demand(3, max_nodes=2)) == []
    assert keys(room, demand(3, max_nodes=3)) == ["0"]


def test_cores_of_a_gang_come_from_each_node_by_its_devices() -> None:
    room = Room([node("a", 2, cpus=4.0), node("b", 2, cpus=2.0)])
    (placement,) = Optimal()(snapshot(room), asking(demand(3, cpus=6.0, max_nodes=2)))
    assert sorted(placement.node_ids) == ["a", "a", "b"]


def test_what_is_taken_is_not_given_again() -> None:
    room = taken(Room([node("a", 2)]), (["a/0"], 0.6))
    assert device_ids(Optimal()(snapshot(room), asking(demand(1, 0.5)))) == [("a/1",)]


def test_kinds_that_may_not_sit_together_do_not() -> None:
    room = Room([node("a", 1)])
    room.bar({"learn": ("rollout",)})
    assert keys(room, demand(1, 0.4, kind="learn"), demand(1, 0.5, kind="rollout")) == ["1"]


def test_a_solver_out_of_time_says_so() -> None:
    room = Room([node(name, 4) for name in "abcd"])
    queue = asking(*[demand(1, share / 100) for share in range(31, 71)])
    with pytest.raises(Unsolved, match=r"40 requests on 16 devices are not solved after packing.limit_s=1e-06"):
        Optimal(limit_s=1e-6)(snapshot(room), queue)


def in_the_best_order(room: Room, requests: list[Request]) -> float:
    """The most share over all orders of one-device requests, each on the first device that fits."""
    best = 0.0
    for order in permutations(requests):
        with room.attempt():
            share = 0.0
            for request in order:
                fits = room.fitting(request.demand) & room.node_fits(request.demand)[:, None]
                if fits.any():
                    row, column = (int(index) for index in divmod(int(fits.argmax()), fits.shape[1]))
                    room.place(request, ((row, (column,)),))
                    share += request.demand.share
            best = max(best, share)
    return best


@pytest.mark.parametrize("seed", range(10))
def test_no_order_of_first_fit_places_more(seed: int) -> None:
    case = small_case(Random(seed))
    requests = [request for request in case.requests if request.demand.devices == 1][:5]
    placed = share_of(Optimal()(snapshot(case.room), requests))
    assert placed >= in_the_best_order(case.room, requests) - 1e-6
