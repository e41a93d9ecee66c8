"""company: what it costs to sit beside others, against pace by pace in plain Python."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.packing.frontier.company import _WEIGHT, Company, cost_beside
from orchestrator.schema import Demand, Placement
from orchestrator.snapshot import ALL_ROWS, SHARE_UNITS, Room, share_units
from tests.unit.orchestrator.simulation.workloads import node

EXCESS = {("a", "a"): 1.2, ("a", "b"): 0.3, ("b", "a"): 0.5}


def room_with(*kinds: str, share: float = 0.25) -> Room:
    room = Room([node("n", 2)])
    for kind in kinds:
        room.take(Placement(stage_key=kind, device_ids=("n/0",), share=share, memory_bytes=0), kind)
    room.know(EXCESS)
    return room


def lost(room: Room, kind: str, share: float) -> list[int]:
    demand = Demand(devices=1, share=share, memory_bytes=0, kind=kind)
    company = Company.of(room, [demand])
    assert company is not None
    found: list[int] = company.lost(room, ALL_ROWS, np.array([share_units(share)]))[0, 0].tolist()
    return found


@given(
    kind=st.sampled_from("ab"), other=st.sampled_from("ab"), share=st.sampled_from([0.125, 0.25, 0.5]),
    taken=st.sampled_from([0.25, 0.5]),
)  # fmt: skip
def test_beside_one_other_it_is_the_share_that_does_nothing(kind: str, other: str, share: float, taken: float) -> None:
    mine = 1 + EXCESS.get((kind, other), 0.0) * taken / share
    theirs = 1 + EXCESS.get((other, kind), 0.0) * share / taken
    expected = share * (1 - 1 / mine) + taken * (1 - 1 / theirs)
    there, free = lost(room_with(other, share=taken), kind, share)
    assert there == pytest.approx(_WEIGHT * expected * SHARE_UNITS, abs=_WEIGHT)
    assert free == 0


def test_beside_two_kinds_their_mean_counts() -> None:
    (both, _), (only_a, _), (only_b, _) = (lost(room_with(*kinds), "a", 0.5) for kinds in ("ab", "aa", "bb"))
    assert only_b < both < only_a


def test_nothing_known_costs_nothing() -> None:
    room = room_with("a")
    room.know({})
    assert Company.of(room, [Demand(devices=1, share=0.5, memory_bytes=0, kind="a")]) is None
    room.know(EXCESS)
    assert lost(room, "c", 0.5) == [0, 0]


def test_of_two_kinds_that_are_known_the_cost_is_the_same_whoever_asks() -> None:
    room = room_with("a", "b")
    demand = Demand(devices=1, share=0.5, memory_bytes=0, kind="a")
    assert cost_beside(room, demand, (0, 0)) == pytest.approx(lost(room, "a", 0.5)[0], abs=1)
    assert cost_beside(room, demand, (0, 1)) == 0.0


def test_who_is_not_known_is_expected_to_gain_nothing_by_sharing() -> None:
    demand = Demand(devices=1, share=0.25, memory_bytes=0, kind="c")
    # Each takes twice as long beside one of equal share, so that half of both does nothing.
    assert cost_beside(room_with("a"), demand, (0, 0)) == pytest.approx(_WEIGHT * 0.25 * SHARE_UNITS)


def test_work_of_no_kind_is_nobody_s_company() -> None:
    assert cost_beside(room_with("a"), Demand(devices=1, share=0.25, memory_bytes=0), (0, 0)) == 0.0


def test_a_copy_of_the_room_knows_the_same() -> None:
    assert room_with("a").copy().excess == EXCESS
