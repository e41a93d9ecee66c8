"""What programs that take turns ask for, and whom they may not sit beside."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.phases import Antiphase, complementary, merged
from orchestrator.schema import Demand

GIB = 2**30
RL, SFT = ("rollout", "learn"), ("learn",)


def demand(kind: str = "grpo", phases: tuple[str, ...] = RL, share: float = 0.5, **changed: int) -> Demand:
    return replace(Demand(devices=1, share=share, memory_bytes=GIB, kind=kind, phases=phases), **changed)


def known(*demands: Demand) -> Antiphase:
    antiphase = Antiphase()
    for one in demands:
        antiphase.know(one)
    return antiphase


@pytest.mark.parametrize(("one", "other", "can"), [(RL, RL, True), (RL, SFT, True), (SFT, SFT, False)])
def test_two_are_complementary_if_they_can_be_in_different_phases(
    one: tuple[str, ...], other: tuple[str, ...], can: bool
) -> None:
    assert complementary(one, other) is complementary(other, one) is can


def test_who_takes_turns_is_of_a_kind_that_says_so() -> None:
    assert Antiphase().taking_turns(demand()) == demand(kind="grpo in antiphase")


def test_two_phases_are_for_two_programs() -> None:
    assert Antiphase().taking_turns(demand(share=0.1)).share == 0.5
    assert Antiphase().taking_turns(demand(share=0.75)).share == 0.75


@pytest.mark.parametrize("alone", [demand(share=1.0), demand(devices=2, share=1.0), demand(phases=())])
def test_who_has_whole_devices_or_no_phases_takes_no_turns(alone: Demand) -> None:
    assert Antiphase().taking_turns(alone) == replace(alone, phases=())


def test_only_those_who_would_wait_for_each_other_all_the_time_are_kept_apart() -> None:
    antiphase = known(demand(), demand("sft", SFT), demand("distill", SFT), demand("plain", ()))
    assert antiphase.conflicts() == {"distill": ("distill", "sft"), "sft": ("distill", "sft")}


def test_a_kind_is_new_once() -> None:
    antiphase = Antiphase()
    assert [antiphase.know(demand()), antiphase.know(demand(share=0.75))] == [True, False]


def test_conflicts_of_two_sources_all_hold() -> None:
    assert merged({"a": ("b",), "b": ("a",)}, {"a": ("a",)}) == {"a": ("a", "b"), "b": ("a",)}


# --- parking ---------------------------------------------------------------------------------------------------------


def test_who_parks_asks_for_half_a_device_and_takes_the_rest_while_it_learns() -> None:
    asked = demand(memory_bytes=50 * GIB, parkable_bytes=24 * GIB)
    parked = Antiphase().parking(asked, 80 * GIB)
    assert (parked.memory_bytes, parked.away_bytes) == (40 * GIB, 10 * GIB)
    assert parked.kind == "grpo, parked (50.000 GiB)"


@pytest.mark.parametrize(
    "asked",
    [
        demand(memory_bytes=40 * GIB, parkable_bytes=20 * GIB),  # two fit as they are
        demand(memory_bytes=60 * GIB, parkable_bytes=30 * GIB),  # two don't fit even so
        demand(memory_bytes=50 * GIB),  # there is nothing to park
        demand("sft", SFT, memory_bytes=50 * GIB, parkable_bytes=24 * GIB),  # it never does anything but learn
    ],
)
def test_nobody_parks_to_no_purpose(asked: Demand) -> None:
    assert Antiphase().parking(asked, 80 * GIB) is asked


def test_devices_of_different_sizes_have_no_half() -> None:
    asked = demand(memory_bytes=50 * GIB, parkable_bytes=24 * GIB)
    assert Antiphase().parking(asked, 0) is asked


def test_who_parks_sits_beside_its_like_only() -> None:
    sizes = {"a": 50, "b": 52}
    parked = {
        name: Antiphase().parking(demand(memory_bytes=gib * GIB, parkable_bytes=24 * GIB), 80 * GIB)
        for name, gib in sizes.items()
    }
    conflicts = known(*parked.values(), demand("plain", ())).conflicts()
    a, b = parked["a"].kind, parked["b"].kind
    assert conflicts == {a: tuple(sorted((b, "plain"))), b: tuple(sorted((a, "plain"))), "plain": (a, b)}


@given(memory=st.integers(1, 100), parkable=st.integers(0, 100), device=st.integers(1, 100))
def test_of_two_who_park_one_may_learn_at_any_time(memory: int, parkable: int, device: int) -> None:
    asked = demand(memory_bytes=memory, parkable_bytes=min(memory, parkable))
    parked = Antiphase().parking(asked, device)
    if parked is not asked:
        assert memory + (memory - asked.parkable_bytes) <= device < 2 * memory
        assert 2 * parked.memory_bytes <= device
        assert parked.memory_bytes + parked.away_bytes == memory
