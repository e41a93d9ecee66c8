"""Those that wait become stacks, and those that others have left are filled."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fusion import Fusion, Plan, Stack, Widths
from orchestrator.packing import BestFit
from orchestrator.schema import Demand, Node, Request, Resident
from orchestrator.snapshot import Room, Snapshot
from tests.unit.orchestrator.builders import GIB, device


def request(number: int, key: str = "sft", *, share: float = 1.0, memory_bytes: int = GIB, **given: object) -> Request:
    made = Request(
        stage_key=f"{key}-{number}",
        study_id="study-1",
        trial_ids=(f"trial-{key}-{number}",),
        demand=Demand(devices=1, share=share, memory_bytes=memory_bytes, cpus=1.0, host_memory_bytes=memory_bytes),
        queued_at=0.0,
        fusion_key=key,
    )
    return replace(made, **given)


def room(devices: int = 2, memory_gib: int = 64) -> Room:
    made = tuple(device(index, memory_bytes=memory_gib * GIB) for index in range(devices))
    node = Node(node_id="node-a", devices=made, cpus=float(devices), host_memory_bytes=devices * memory_gib * GIB)
    return Room([node])


def snapshot(of: Room, at: float = 0.0, residents: tuple[Resident, ...] = ()) -> Snapshot:
    return Snapshot(at=at, room=of, residents=residents, queue=(), tenants=dict)


def resident(of: Room, index: int, expected_end_at: float | None = None) -> Resident:
    """Somebody who sits on a whole device of the room, from now on."""
    asked = request(100 + index, "warm-up")
    with of.attempt():
        placement = of.place(asked, ((0, (index,)),))
    of.take(placement)
    return Resident(
        bundle_id=f"bundle-{index}",
        placement=placement,
        request=asked,
        opened_at=0.0,
        expected_end_at=expected_end_at,
    )


def sizes(plan: Plan) -> list[int]:
    return [len(plan.members.get(request.stage_key, (request,))) for request in plan.requests]


def test_those_of_one_key_are_spread_over_the_devices() -> None:
    plan = Fusion().join(snapshot(room(2)), Widths(), [request(n) for n in range(8)])
    assert sizes(plan) == [4, 4]


def test_each_key_gets_its_part_of_the_devices() -> None:
    waiting = [request(n, key) for key in ("sft", "grpo") for n in range(8)]
    plan = Fusion().join(snapshot(room(2)), Widths(), waiting)
    assert sizes(plan) == [8, 8]
    assert [r.fusion_key for r in plan.requests] == ["sft", "grpo"]


def test_those_for_whom_one_device_is_free_wait_for_no_other() -> None:
    of = room(2)
    busy = resident(of, 0)
    plan = Fusion().join(snapshot(of, residents=(busy,)), Widths(), [request(n) for n in range(2)])
    assert sizes(plan) == [2]


@pytest.mark.parametrize(
    ("end_at", "expected"), [(101.0, [8, 8]), (98.0, [8, 8]), (104.0, [16]), (80.0, [16]), (None, [16])]
)
def test_a_device_that_is_expected_to_be_free_at_about_the_same_time_gets_a_stack_of_its_own(
    end_at: float | None, expected: list[int]
) -> None:
    """Those that wait are expected to take 10 s; one that should have ended long ago is not expected to end now."""
    of = room(2)
    now = snapshot(of, at=100.0, residents=(resident(of, 0, end_at),))
    plan = Fusion().join(now, Widths(), [request(n, expected_s=10.0) for n in range(16)])
    assert sizes(plan) == expected


def test_a_device_is_free_once_the_last_who_sits_there_is_gone() -> None:
    of = room(2)
    first = resident(of, 0, 101.0)
    second = replace(first, bundle_id="other", expected_end_at=200.0)
    now = snapshot(of, at=100.0, residents=(first, second))
    assert sizes(Fusion().join(now, Widths(), [request(n, expected_s=10.0) for n in range(4)])) == [4]


def test_where_nothing_is_free_the_plan_is_for_all_devices() -> None:
    of = room(2)
    now = snapshot(of, residents=tuple(resident(of, index) for index in range(2)))
    assert sizes(Fusion().join(now, Widths(), [request(n) for n in range(8)])) == [4, 4]


def test_no_stack_is_wider_than_allowed() -> None:
    plan = Fusion(max_width=3).join(snapshot(room(1)), Widths(), [request(n) for n in range(8)])
    assert sizes(plan) == [3, 3, 2]


def test_a_stack_is_no_wider_than_the_memory_of_a_device() -> None:
    plan = Fusion().join(snapshot(room(1, memory_gib=4)), Widths(), [request(n) for n in range(8)])
    assert max(sizes(plan)) == 4


def test_measured_memory_lets_more_in_than_so_many_programs_would_take() -> None:
    widths = Widths()
    widths.observe_memory("sft", 4, GIB)
    plan = Fusion().join(snapshot(room(1, memory_gib=4)), widths, [request(n) for n in range(8)])
    assert sizes(plan) == [8]


def test_what_was_measured_to_be_slower_together_runs_alone() -> None:
    widths = Widths()
    for width in (1, 2, 4, 8):
        widths.observe("sft", width, steps=100.0 / width**2, seconds=10.0)
    plan = Fusion().join(snapshot(room(1)), widths, [request(n) for n in range(8)])
    assert sizes(plan) == [1] * 8


def test_tenants_and_priorities_are_not_mixed() -> None:
    waiting = [request(0), request(1, tenant="b"), request(2), request(3, tenant="b"), request(4, priority=1)]
    plan = Fusion().join(snapshot(room(1)), Widths(), waiting)
    assert [tuple(m.stage_key for m in members) for members in plan.members.values()] == [
        ("sft-0", "sft-2"),
        ("sft-1", "sft-3"),
    ]


def test_gangs_and_those_without_a_key_stay_as_they_are() -> None:
    gang = request(0, demand=Demand(devices=2, share=1.0, memory_bytes=GIB))
    waiting = [gang, request(1, ""), request(2, "")]
    assert Fusion().join(snapshot(room(2)), Widths(), waiting) == Plan(waiting)


def test_a_joined_request_speaks_for_all_its_trials() -> None:
    plan = Fusion().join(snapshot(room(1)), Widths(), [request(n, expected_s=float(n)) for n in range(3)])
    (joined,) = plan.requests
    assert joined.trial_ids == ("trial-sft-0", "trial-sft-1", "trial-sft-2")
    assert joined.expected_s == 2.0
    assert joined.demand.memory_bytes == 3 * GIB


@given(
    st.lists(st.tuples(st.sampled_from(["", "sft", "grpo"]), st.sampled_from([0.25, 1.0])), max_size=30),
    st.integers(1, 5),
    st.integers(1, 9),
)
def test_nobody_is_lost_doubled_or_moved_forward(waiting: list[tuple[str, float]], devices: int, width: int) -> None:
    requests = [request(n, key, share=share) for n, (key, share) in enumerate(waiting)]
    plan = Fusion(max_width=width).join(snapshot(room(devices)), Widths(), requests)
    members = [m for r in plan.requests for m in plan.members.get(r.stage_key, (r,))]
    assert sorted(m.stage_key for m in members) == sorted(r.stage_key for r in requests)
    heads = [requests.index(m) for m in (plan.members.get(r.stage_key, (r,))[0] for r in plan.requests)]
    assert heads == sorted(heads)
    assert all(len(group) <= width for group in plan.members.values())


@given(st.integers(2, 16), st.sampled_from([0.25, 0.5, 1.0]))
def test_the_seats_of_a_stack_hold_no_more_than_it_was_given(count: int, share: float) -> None:
    of = room(1)
    plan = Fusion().join(snapshot(of), Widths(), [request(n, share=share) for n in range(count)])
    placements = tuple(BestFit()(snapshot(of), plan.requests))
    seats = plan.seats(placements, lambda: "stack")
    for seat in seats:
        of.take(seat)
    assert of.share.min() >= 0
    assert of.milli_cpus.min() >= 0
    assert of.host_memory_bytes.min() >= 0


def seated(of: Room, count: int, tenant: str = "default") -> Stack:
    """A stack of `count` of four seats of a device, which sit in the room."""
    with of.attempt():
        whole = of.place(request(0), ((0, (0,)),))
    seat = replace(whole, share=0.25, memory_bytes=whole.memory_bytes // 4, cpus=0.25, host_memory_bytes=GIB)
    seat = replace(seat, stack_id="stack")
    for _ in range(count):
        of.take(seat)
    return Stack("stack", "sft", tenant, seat, 0.0, {str(n) for n in range(count)}, count)


def test_free_seats_go_to_the_first_of_the_same_key() -> None:
    of = room(1)
    stack = seated(of, 2)
    waiting = [request(0, "grpo"), *(request(n) for n in range(1, 5))]
    filled = Fusion().fill(snapshot(of), [stack], waiting)
    assert [p.stage_key for p in filled] == ["sft-1", "sft-2"]
    assert {(p.stack_id, p.share, p.device_ids) for p in filled} == {("stack", 0.25, stack.seat.device_ids)}


def test_filling_leaves_the_room_as_it_was() -> None:
    of = room(1)
    stack, before = seated(of, 2), of.copy()
    Fusion().fill(snapshot(of), [stack], [request(n) for n in range(4)])
    assert (of.share == before.share).all()
    assert (of.memory_bytes == before.memory_bytes).all()


def test_a_stack_that_is_full_takes_nobody() -> None:
    of = room(1)
    assert Fusion().fill(snapshot(of), [seated(of, 4)], [request(1)]) == ()


def test_a_seat_that_somebody_else_has_taken_is_gone() -> None:
    of = room(1)
    stack = seated(of, 2)
    of.take(replace(stack.seat, share=0.5, stack_id="", cpus=0.0))
    assert Fusion().fill(snapshot(of), [stack], [request(1)]) == ()


def test_a_stack_takes_nobody_of_another_tenant() -> None:
    of = room(1)
    assert Fusion().fill(snapshot(of), [seated(of, 2, tenant="b")], [request(1)]) == ()


def test_who_has_waited_long_is_not_overtaken_any_more() -> None:
    of = room(1)
    stack, waiting = seated(of, 2), [request(1), request(0, "grpo"), request(2)]
    patient, impatient = Fusion(patience_s=100.0), Fusion(patience_s=10.0)
    assert [p.stage_key for p in patient.fill(snapshot(of, at=50.0), [stack], waiting)] == ["sft-1", "sft-2"]
    assert [p.stage_key for p in impatient.fill(snapshot(of, at=50.0), [stack], waiting)] == ["sft-1"]
