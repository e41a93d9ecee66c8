"""migrate: who moves for whom, what it must be worth, and who never moves."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.packing import PACKINGS, BestFit, FirstFit, Frontier, PackingPolicy
from orchestrator.schema import Request, Resident
from orchestrator.sharing.defragmentation import DEFRAGMENTATIONS, Move
from orchestrator.snapshot import Snapshot
from tests.unit.orchestrator.sharing.defragmentation.scattered import AT, gang, running, scattered
from tests.unit.orchestrator.sharing.snapshots import ids

RESTART_S = 30.0
CONFIG = {"name": "migrate", "max_moves": 2, "min_hold_s": 60.0, "restart_s": RESTART_S, "margin": 2.0}


def decided(
    now: Snapshot, blocked: Request | None = None, packing: PackingPolicy | None = None, **changed: float
) -> Move | None:
    policy = DEFRAGMENTATIONS["migrate"]({**CONFIG, **changed})
    return policy(now, blocked or gang(), packing or BestFit())


def moved(now: Snapshot, blocked: Request | None = None, **changed: float) -> set[str]:
    move = decided(now, blocked, **changed)
    return set() if move is None else {bundle_id.removeprefix("bundle-") for bundle_id in move.bundle_ids}


def test_those_move_that_lose_least_and_the_blocked_one_is_served_before_them() -> None:
    move = decided(scattered())
    assert move is not None
    assert move.bundle_ids == ("bundle-b0", "bundle-b1")
    assert (move.for_stage_key, move.stage_keys) == ("gang", ("gang", "b0", "b1"))
    assert "would wait 3600 s more; 60 device-seconds are lost" in move.reason


def test_the_room_is_as_it_was_afterwards() -> None:
    now = scattered()
    before = now.room.share.copy(), now.room.memory_bytes.copy(), now.room.residents.copy()
    assert decided(now) is not None
    for was, has in zip(before, (now.room.share, now.room.memory_bytes, now.room.residents), strict=True):
        assert (was == has).all()


def test_a_large_share_is_helped_too() -> None:
    halves = [running(f"{n}", ids("a", n), share=0.5) for n in range(2)]
    assert len(moved(scattered(halves, nodes=(2,)), gang(1, share=1.0))) == 1


def test_a_gang_over_two_nodes_is_helped_on_both() -> None:
    residents = [running(f"{node}{n}", ids(node, n)) for node in "ab" for n in (0,)]
    now = scattered(residents, nodes=(2, 2, 1, 1))
    assert moved(now, gang(4, max_nodes=1)) == set()
    assert moved(now, gang(4, max_nodes=2)) == {"a0", "b0"}


def test_nobody_moves_where_the_cluster_has_too_little_in_all() -> None:
    residents = [running(f"{node}{n}", ids(node, n)) for node in "ab" for n in range(3)]
    assert moved(scattered(residents), gang(3)) == set()


def test_nobody_moves_if_one_of_them_would_find_no_room() -> None:
    pair = [running("pair", ids("a", 0, 1)), running("x", ids("b", 0)), running("y", ids("b", 1))]
    assert moved(scattered(pair, nodes=(4, 4))) == {"pair"}
    # With a device less on b the pair fits nowhere else, and b has no four devices at all.
    assert moved(scattered(pair, nodes=(4, 3))) == set()


@pytest.mark.parametrize(("left_s", "helped"), [(31.0, False), (100.0, True)])
def test_it_pays_only_if_the_wait_costs_more_than_is_lost_by_the_margin(left_s: float, helped: bool) -> None:
    # Two singles lose (0 + 30) device-seconds each, 60 in all, twice that is 120; the gang's wait is worth 4 x left_s.
    residents = [running(f"{node}{n}", ids(node, n), left_s=left_s) for node in "ab" for n in (0, 1)]
    assert bool(moved(scattered(residents), margin=6.0)) is helped


def test_work_since_the_last_checkpoint_counts_as_lost() -> None:
    residents = [running(f"{node}{n}", ids(node, n), left_s=600.0, unsaved_s=570.0) for node in "ab" for n in (0, 1)]
    # 4 x 600 is exactly 2 x (2 x 600).
    assert len(moved(scattered(residents))) == 2
    assert moved(scattered([replace(r, unsaved_s=571.0) for r in residents])) == set()


def test_nobody_moves_if_nobody_can_say_how_long_the_wait_would_be() -> None:
    unknown = [running(f"{node}{n}", ids(node, n), left_s=None) for node in "ab" for n in (0, 1)]
    assert moved(scattered(unknown)) == set()


@pytest.mark.parametrize(
    "staying",
    [{"preemptions": 2}, {"held_s": 59.0}, {"left_s": 30.0}],
    ids=["moved twice", "came just now", "ends before it would restart"],
)
def test_whoever_may_not_move_stays(staying: dict[str, float]) -> None:
    residents = [running(f"b{n}", ids("b", n), **staying) for n in (0, 1)]  # type: ignore[arg-type]
    others = [running(f"a{n}", ids("a", n), unsaved_s=5.0, left_s=2000.0) for n in (0, 1)]
    assert "b0" not in moved(scattered([*residents, *others]))


def test_while_anybody_leaves_nobody_moves() -> None:
    residents = [running(f"{node}{n}", ids(node, n)) for node in "ab" for n in (0, 1)]
    residents[0] = replace(residents[0], stopping=True)
    assert moved(scattered(residents)) == set()


# --- whatever the cluster is like ---


@st.composite
def clusters(draw: st.DrawFn) -> tuple[Snapshot, Request]:
    widths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    residents: list[Resident] = []
    for node, width in zip("abc", widths, strict=False):
        free = [2] * width
        for number in range(draw(st.integers(0, 4))):
            size, halves = draw(st.integers(1, 2)), draw(st.sampled_from([1, 2]))
            fitting = [n for n in range(width) if free[n] >= halves][:size]
            if len(fitting) < size:
                continue
            for n in fitting:
                free[n] -= halves
            residents.append(
                running(
                    f"{node}{number}",
                    ids(node, *fitting),
                    share=halves / 2,
                    left_s=draw(st.sampled_from([None, 50.0, 500.0, 5000.0])),
                    unsaved_s=draw(st.sampled_from([0.0, 100.0, 400.0])),
                    preemptions=draw(st.integers(0, 2)),
                )
            )
    blocked = gang(draw(st.integers(1, 4)), max_nodes=draw(st.integers(1, 2)))
    return scattered(residents, nodes=widths), blocked


def _lost(residents: Sequence[Resident]) -> float:
    return sum(len(r.placement.device_ids) * r.placement.share * (r.unsaved_s + RESTART_S) for r in residents)


@settings(max_examples=150, deadline=None)
@given(cluster=clusters(), packing=st.sampled_from([BestFit(), FirstFit(), Frontier(), PACKINGS["dot_product"]()]))
def test_all_fit_and_no_more_is_lost_than_is_saved(cluster: tuple[Snapshot, Request], packing: PackingPolicy) -> None:
    now, blocked = cluster
    if packing(now, [blocked]):
        return
    move = decided(now, blocked, packing)
    if move is None:
        return
    leaving = [r for r in now.residents if r.bundle_id in move.bundle_ids]
    staying = [r for r in now.residents if r.bundle_id not in move.bundle_ids]
    # The oracle builds the cluster anew, with those that stay alone.
    nodes = [len(devices) for devices in now.room.devices]
    then = scattered(staying, nodes=nodes)
    asked = {r.request.stage_key: r.request for r in leaving} | {"gang": blocked}
    placed = packing(then, [asked[key] for key in move.stage_keys])
    assert {placement.stage_key for placement in placed} == {*asked} == {*move.stage_keys}
    latest = max(r.expected_end_at for r in now.residents if r.expected_end_at is not None)
    assert 2.0 * _lost(leaving) <= (latest - AT) * blocked.demand.devices
    assert all(r.request.preemptions < 2 for r in leaving)


@settings(max_examples=60, deadline=None)
@given(cluster=clusters())
def test_on_one_node_no_other_set_that_would_do_loses_less(cluster: tuple[Snapshot, Request]) -> None:
    now, blocked = cluster
    blocked = replace(blocked, demand=replace(blocked.demand, max_nodes=1))
    if BestFit()(now, [blocked]):
        return
    move = decided(now, blocked)
    if move is None:
        return
    chosen = _lost([r for r in now.residents if r.bundle_id in move.bundle_ids])
    nodes = [len(devices) for devices in now.room.devices]
    for size in (1, 2):
        for some in itertools.combinations([r for r in now.residents if r.request.preemptions < 2], size):
            if len({d.split("/")[0] for r in some for d in r.placement.device_ids}) > 1:
                continue
            if any(r.expected_end_at is not None and r.expected_end_at <= AT + RESTART_S for r in some):
                continue
            then = scattered([r for r in now.residents if r not in some], nodes=nodes)
            in_turn = sorted(
                (r.request for r in some),
                key=lambda r: (-r.demand.devices * r.demand.share, r.queued_at, r.stage_key),
            )
            if len(BestFit()(then, [blocked, *in_turn])) == 1 + size:
                assert chosen <= _lost(some)
