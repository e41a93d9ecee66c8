"""Who pays for vacated seats, on stacks whose answers are known, and against an account in small steps of time."""

from collections.abc import Sequence
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.accounting import Seat, about, charged, charges, own_and_beside, seats
from orchestrator.schema import NO_CHARGE, Allocation
from tests.unit.orchestrator.builders import warm_started

STEP_S = 1.0


def line(
    bundle_id: str,
    opened_at: float,
    closed_at: float | None,
    share: float = 0.25,
    stack_id: str = "stack",
    device_id: str = "d",
    study_id: str = "study-1",
    trial_ids: tuple[str, ...] = (),
) -> Allocation:
    return Allocation(
        bundle_id=bundle_id,
        study_id=study_id,
        stage_key=f"stage of {bundle_id}",
        trial_ids=trial_ids or (f"trial of {bundle_id}",),
        device_ids=(device_id,),
        share=share,
        opened_at=opened_at,
        closed_at=closed_at,
        stack_id=stack_id,
    )


def vacated(lines: Sequence[Allocation], now: float = 1e9) -> dict[str, float]:
    return {bundle_id: seat.vacated_s for bundle_id, seat in seats(lines, now).items()}


def stack_of_four() -> list[Allocation]:
    """Two leave after 10 s, one after 20 s, the last after 30 s."""
    return [line("a", 0, 10), line("b", 0, 10), line("c", 0, 20), line("d", 0, 30)]


def test_who_is_still_there_pays_for_the_seats_that_others_left() -> None:
    # From 10 to 20 half the device is vacant and two pay; from 20 to 30 three quarters, and one pays.
    assert vacated(stack_of_four()) == pytest.approx({"a": 0.0, "b": 0.0, "c": 2.5, "d": 2.5 + 7.5})


def test_a_stack_is_paid_for_whole_from_its_first_member_to_its_last() -> None:
    lines = stack_of_four()
    assert sum(one.device_seconds(0.0) for one in lines) + sum(vacated(lines).values()) == pytest.approx(30.0)


def test_nothing_is_vacated_before_somebody_has_left() -> None:
    assert vacated([line("a", 0, 10), line("b", 5, 10)]) == {"a": 0.0, "b": 0.0}


def test_a_seat_that_is_taken_again_is_vacated_in_between() -> None:
    lines = [line("a", 0, 20, 0.5), line("b", 0, 5, 0.5), line("c", 8, 20, 0.5)]
    assert vacated(lines) == pytest.approx({"a": 1.5, "b": 0.0, "c": 0.0})


def test_what_others_took_of_a_vacated_seat_is_theirs_to_pay() -> None:
    lines = [line("a", 0, 20, 0.5), line("b", 0, 10, 0.5), line("other", 14, 30, 0.5, stack_id="")]
    assert vacated(lines) == pytest.approx({"a": 2.0, "b": 0.0})


def test_others_take_first_what_no_stack_ever_had() -> None:
    lines = [line("a", 0, 20), line("b", 0, 10), line("other", 10, 20, 0.5, stack_id="")]
    assert vacated(lines) == pytest.approx({"a": 2.5, "b": 0.0})


def test_two_stacks_lose_vacated_seats_to_others_in_proportion() -> None:
    one = [line("a", 0, 10), line("b", 0, 5)]
    two = [line("c", 0, 10, stack_id="two"), line("d", 0, 5, stack_id="two")]
    lines = [*one, *two, line("other", 5, 10, stack_id="")]
    assert vacated(lines) == pytest.approx({"a": 0.625, "b": 0.0, "c": 0.625, "d": 0.0})


def test_stacks_on_two_devices_know_nothing_of_each_other() -> None:
    elsewhere = [line("e", 0, 30, stack_id="two", device_id="other", share=0.75)]
    assert vacated([*stack_of_four(), *elsewhere])["d"] == pytest.approx(10.0)


def test_an_open_seat_is_counted_up_to_now_and_a_later_end_changes_nothing_before() -> None:
    assert vacated([line("a", 0, None), line("b", 0, 10)], now=14.0) == pytest.approx({"a": 1.0, "b": 0.0})
    assert vacated([line("a", 0, 99), line("b", 0, 10)], now=14.0) == pytest.approx({"a": 1.0, "b": 0.0})


def test_what_runs_alone_has_no_seat() -> None:
    assert seats([line("a", 0, 10, stack_id="")], 99.0) == {}


def test_a_seat_tells_how_many_the_stack_had_at_once() -> None:
    found = seats([*stack_of_four(), line("e", 15, 18)], 99.0)
    assert {bundle_id: seat.width for bundle_id, seat in found.items()} == dict.fromkeys("abcde", 4)


def test_each_study_pays_for_its_own_members_of_a_stack() -> None:
    lines = [line("a", 0, 20), line("b", 0, 20, study_id="study-2"), line("c", 0, 10), line("d", 0, 10)]
    own, beside = own_and_beside("study-2", about("study-2", lines))
    assert [one.bundle_id for one in own] == ["b"]
    assert [one.bundle_id for one in beside] == ["a", "c", "d"]
    assert vacated([*own, *beside])["b"] == pytest.approx(2.5)


def test_a_trial_pays_its_part_of_a_stage_that_others_waited_for_too() -> None:
    lines = [line("a", 0, 10, 0.5), line("b", 0, 20, 0.5, trial_ids=("one", "two"))]
    of_trial = charges(lines, seats(lines, 99.0), 99.0)
    assert of_trial["one"] == of_trial["two"]
    assert (of_trial["one"].vacated_s, of_trial["one"].fused_s) == pytest.approx((2.5, 7.5))
    assert (of_trial["one"].stack_ids, of_trial["one"].width) == (("stack",), 2)


def test_a_trial_is_charged_when_its_line_is_closed() -> None:
    lines = stack_of_four()
    found = seats(lines, 99.0)
    assert set(charges(lines, found, 20.0)) == {"trial of a", "trial of b", "trial of c"}
    assert charges(lines, found, 20.0)["trial of c"] == charges(lines, found, 99.0)["trial of c"]


def test_a_charged_trial_has_the_vacated_seats_in_its_device_seconds() -> None:
    lines = stack_of_four()
    (trial,) = warm_started(1)
    charge = charges(lines, seats(lines, 99.0), 99.0)["trial of d"]
    assert charged(trial, charge).gpu_seconds == pytest.approx(trial.gpu_seconds + 10.0)
    assert charged(trial, NO_CHARGE) == trial


def test_who_was_on_the_device_before_or_after_a_stack_has_nothing_to_do_with_it() -> None:
    before, after = (line(name, *span, stack_id="", study_id="x") for name, span in (("p", (0, 5)), ("q", (20, 30))))
    during = line("r", 7, 8, stack_id="", study_id="x")
    own = line("a", 5, 20)
    assert about("study-1", [before, own, after, during]) == [own, during]


@st.composite
def ledgers(draw: st.DrawFn) -> list[Allocation]:
    """Of one device that never gives more than it has, on whole seconds: stacks of equal seats, and others alone."""
    names = count()
    lines: list[Allocation] = []
    held = [0] * 24  # in twelfths of the device, by second
    for _ in range(draw(st.integers(1, 14))):
        stack = draw(st.sampled_from(("", "one", "two")))
        begin = draw(st.integers(0, 20))
        end = draw(st.integers(begin + 1, 24))
        share = {"": draw(st.integers(1, 6)), "one": 2, "two": 1}[stack]
        if all(held[at] + share <= 12 for at in range(begin, end)):
            for at in range(begin, end):
                held[at] += share
            is_open = draw(st.booleans()) and end == 24
            study_id = draw(st.sampled_from(("study-1", "study-2")))
            closed_at = None if is_open else float(end)
            lines.append(line(f"b{next(names)}", begin, closed_at, share / 12, stack, study_id=study_id))
    return lines


def in_small_steps(lines: Sequence[Allocation], now: float) -> dict[str, float]:
    """The same by brute force: every line looked at in every step."""
    owed = {one.bundle_id: 0.0 for one in lines if one.stack_id}
    slices: dict[str, float] = {}
    at = 0.0
    while at < now:
        there = [one for one in lines if one.opened_at <= at and (one.closed_at is None or one.closed_at > at)]
        stacks = {one.stack_id for one in there if one.stack_id}
        held = {name: sum(one.share for one in there if one.stack_id == name) for name in stacks}
        slices = {name: max(held[name], slices.get(name, 0.0)) for name in stacks}
        left = {name: slices[name] - held[name] for name in stacks}
        free = 1.0 - sum(one.share for one in there)
        part = min(1.0, free / sum(left.values())) if sum(left.values()) > 1e-9 else 0.0
        for name in stacks:
            members = [one.bundle_id for one in there if one.stack_id == name]
            for bundle_id in members:
                owed[bundle_id] += left[name] * part * STEP_S / len(members)
        at += STEP_S
    return owed


@given(ledgers(), st.integers(1, 24))
def test_the_sweep_is_the_account_in_small_steps(lines: list[Allocation], now: int) -> None:
    expected = in_small_steps(lines, float(now))
    found = vacated(lines, float(now))
    assert found == pytest.approx({name: owed for name, owed in expected.items() if name in found}, abs=1e-9)
    assert all(owed == 0.0 for name, owed in expected.items() if name not in found)


@given(ledgers())
def test_what_is_held_and_vacated_of_a_device_is_never_more_than_the_device(lines: list[Allocation]) -> None:
    held = sum(one.device_seconds(24.0) for one in lines)
    assert held + sum(vacated(lines, 24.0).values()) <= 24.0 + 1e-9


@given(ledgers())
def test_what_is_about_a_study_is_enough_to_charge_it(lines: list[Allocation]) -> None:
    whole = vacated(lines, 24.0)
    for study_id in ("study-1", "study-2"):
        found = vacated(about(study_id, lines), 24.0)
        own = [one.bundle_id for one in lines if one.study_id == study_id and one.stack_id]
        assert [found[name] for name in own] == pytest.approx([whole[name] for name in own])


def test_an_empty_ledger_charges_nobody() -> None:
    assert seats([], 1.0) == {}
    assert charges([], {"x": Seat(vacated_s=1.0, width=2)}, 1.0) == {}
