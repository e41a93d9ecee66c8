"""Company is found behind those who can't be it, and nobody else is passed over."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.packing import PACKINGS, FirstFit, PackingPolicy
from orchestrator.phases import BesideBarred
from orchestrator.schema import Demand, Placement
from orchestrator.snapshot import Room
from tests.unit.orchestrator.packing.cases import GIB, asking, demand, node, snapshot

CONFLICTS = {"sft": ("sft",)}
SFT, RL = demand(share=0.5, kind="sft"), demand(share=0.5, kind="rl")


def room(devices: int = 1, conflicts: dict[str, tuple[str, ...]] | None = None) -> Room:
    made = Room([node("a", devices)])
    made.bar(CONFLICTS if conflicts is None else conflicts)
    return made


def placed(there: Room, *demands: Demand, policy: PackingPolicy | None = None) -> dict[str, tuple[str, ...]]:
    placements = BesideBarred(policy or FirstFit())(snapshot(there), asking(*demands))
    return {placement.stage_key: placement.device_ids for placement in placements}


def test_the_other_half_goes_to_the_first_who_may_sit_there() -> None:
    assert placed(room(), SFT, SFT, RL, RL) == {"0": ("a/0",), "2": ("a/0",)}


def test_so_it_does_where_somebody_sits_already() -> None:
    there = room(2)
    for device_id in ("a/0", "a/1"):
        there.take(Placement(stage_key=device_id, device_ids=(device_id,), share=0.5, memory_bytes=0), "sft")
    assert placed(there, SFT, RL, RL) == {"1": ("a/0",), "2": ("a/1",)}


@pytest.mark.parametrize("first", [demand(2), demand(share=1.0, kind="sft"), demand(share=0.75, kind="rl")])
def test_who_waits_for_more_than_company_is_not_overtaken(first: Demand) -> None:
    assert placed(room(), SFT, first, RL) == {"0": ("a/0",)}


def test_nor_is_one_that_would_have_no_room_beside_the_newcomer() -> None:
    assert placed(room(), SFT, demand(share=0.5, kind="sft", gib=6), RL) == {"0": ("a/0",)}


def test_nor_one_that_may_not_sit_beside_the_newcomer_either() -> None:
    assert placed(room(conflicts={"sft": ("sft", "rl"), "rl": ("sft",)}), SFT, SFT, RL) == {"0": ("a/0",)}


def test_without_conflicts_it_is_the_policy_itself() -> None:
    assert placed(room(conflicts={}), SFT, demand(2), RL) == {"0": ("a/0",)}


KINDS = ("sft", "distill", "rl", "plain")
APART = {"sft": ("distill", "sft"), "distill": ("distill", "sft")}
ASKED = st.builds(
    demand, st.sampled_from([1, 1, 1, 2]), st.sampled_from([0.5, 0.75, 1.0]), gib=st.integers(0, 5),
    kind=st.sampled_from(KINDS),
)  # fmt: skip

POLICIES = st.sampled_from(["first_fit", "best_fit", "frontier", "dot_product"])


@settings(max_examples=200, deadline=None)
@given(queue=st.lists(ASKED, max_size=8), devices=st.integers(1, 3), policy=POLICIES)
def test_whatever_is_asked_no_rule_is_broken_and_those_passed_over_still_have_a_place(
    queue: list[Demand], devices: int, policy: str
) -> None:
    there = room(devices, APART)
    requests = asking(*queue)
    before = {name: getattr(there, name).tolist() for name in ("share", "memory_bytes", "kinds", "residents")}
    plain = [placement.stage_key for placement in PACKINGS[policy]()(snapshot(there), requests)]
    found = BesideBarred(PACKINGS[policy]())(snapshot(there), requests)
    assert {name: getattr(there, name).tolist() for name in before} == before
    assert [placement.stage_key for placement in found[: len(plain)]] == plain
    on_device: dict[str, list[int]] = {}
    for placement in found:
        for device_id in placement.device_ids:
            on_device.setdefault(device_id, []).append(int(placement.stage_key))
    for together in on_device.values():
        kinds = [queue[number].kind for number in together]
        assert sum(queue[number].share for number in together) <= 1.0
        assert sum(kind in ("sft", "distill") for kind in kinds) <= 1
    for placement in found[len(plain) :]:
        newcomer = int(placement.stage_key)
        passed = [n for n in range(newcomer) if str(n) not in {p.stage_key for p in found}]
        assert passed
        for number in passed:  # once the one that sits there has left, it fits beside the newcomer
            assert queue[number].share + queue[newcomer].share <= 1.0
            assert queue[number].memory_bytes + placement.memory_bytes <= 8 * GIB
            assert queue[newcomer].kind not in APART.get(queue[number].kind, ())
