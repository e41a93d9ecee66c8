"""least_lost: who has to make room for whom, and who never."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from orchestrator.ordering import OrderingPolicy, fair_share, fifo, priority, with_aging
from orchestrator.schema import Request, Resident, Tenant
from orchestrator.sharing import PREEMPTIONS, Preemption, admit
from orchestrator.snapshot import Snapshot
from tests.unit.orchestrator.ordering.requests import waiting
from tests.unit.orchestrator.sharing.snapshots import ids, resident, snapshot

POLICY = PREEMPTIONS["least_lost"]({"max_preemptions": 3, "min_hold_s": 10.0})
OWNER = Tenant(name="owner", quota=2.0, borrowing_limit=2.0)
BORROWER = Tenant(name="borrower", quota=1.0, borrowing_limit=None)
TEAMS = (OWNER, BORROWER)


def decided(
    now: Snapshot, ordering: OrderingPolicy = priority, unplaced: Sequence[Request] | None = None
) -> list[Preemption]:
    admitted, _ = admit(ordering(now), now)
    return list(POLICY(now, list(admitted) if unplaced is None else unplaced, ordering))


def victims(preemptions: Iterable[Preemption]) -> list[str]:
    return [bundle_id.removeprefix("bundle-") for p in preemptions for bundle_id in p.bundle_ids]


def singles(count: int, tenant: str = "default", node: str = "a", **words: object) -> list[Resident]:
    """One resident on each of the first devices of a node; the earlier ones have more to lose."""
    return [
        resident(waiting(f"{tenant}-{n}", tenant=tenant, **words), ids(node, n), unsaved_s=float(count - n))
        for n in range(count)
    ]


# --- by priority ---


def test_lower_priority_makes_room_where_least_is_lost() -> None:
    urgent = waiting("urgent", at=5.0, priority=1)
    now = snapshot(residents=singles(4), queue=[urgent])
    assert decided(now) == [
        Preemption(
            bundle_ids=("bundle-default-3",),
            for_stage_key="urgent",
            reason="makes room for a run of study study-of-default: priority 1 goes before 0; "
            "1 device-seconds of work are lost",
        )
    ]


def test_where_nobody_is_less_important_and_nobody_has_a_quota_the_residents_are_not_even_looked_at() -> None:
    def unwanted() -> Sequence[Resident]:
        raise AssertionError("somebody looked")

    queue = [waiting("x", at=5.0, priority=1)]
    now = Snapshot(at=99.0, queue=queue, residents=unwanted, lowest_priority=lambda: 1)
    assert decided(now) == []


def test_equal_priority_does_not() -> None:
    assert decided(snapshot(residents=singles(4), queue=[waiting("x", at=5.0)])) == []


def test_a_gang_gets_all_its_room_or_none() -> None:
    gang = waiting("gang", priority=1, devices=3)
    low, high = singles(2, node="a"), singles(2, "vip", node="b", priority=2)
    assert decided(snapshot(nodes=(2, 2), residents=[*low, *high], queue=[gang])) == []
    assert victims(decided(snapshot(nodes=(3,), residents=low, queue=[gang]))) == ["default-1", "default-0"]


def test_who_was_moved_too_often_stays() -> None:
    often = [replace(r, request=replace(r.request, preemptions=3)) for r in singles(4)]
    assert decided(snapshot(residents=often, queue=[waiting("urgent", priority=1)])) == []


def test_who_has_just_begun_stays() -> None:
    young = [replace(r, opened_at=995.0) for r in singles(4)]
    assert decided(snapshot(residents=young, queue=[waiting("urgent", priority=1)])) == []


def test_whom_the_ordering_would_serve_first_stays() -> None:
    now = snapshot(residents=singles(4), queue=[waiting("urgent", at=5.0, priority=1)])
    assert decided(now, ordering=fifo) == []


def test_who_would_be_overdue_in_the_queue_stays() -> None:
    aged = with_aging(priority, max_wait_s=100.0)
    urgent = waiting("urgent", at=950.0, priority=1)
    assert decided(snapshot(residents=singles(4, at=0.0), queue=[urgent]), ordering=aged) == []
    assert victims(decided(snapshot(residents=singles(4, at=940.0), queue=[urgent]), ordering=aged)) == ["default-3"]


def test_who_stays_does_not_keep_others_from_leaving() -> None:
    aged = with_aging(priority, max_wait_s=100.0)
    overdue, recent = singles(7, at=0.0), resident(waiting("recent", at=940.0), ids("a", 7), unsaved_s=99.0)
    now = snapshot(nodes=(8,), residents=[*overdue, recent], queue=[waiting("urgent", at=950.0, priority=1)])
    assert victims(decided(now, ordering=aged)) == ["recent"]


def test_fair_shares_are_judged_as_they_would_be_without_the_victim() -> None:
    """The claimant's tenant holds one device and a half. Of three one may be taken: two are left, still more. Of two
    none: one would be left, and asking again it would be served first."""
    ordering = partial(fair_share, half_life_s=1.0)
    claim = waiting("claim", tenant="poor", priority=1, at=1.0)
    poor = [
        resident(waiting("whole", tenant="poor"), ids("b", 0), opened_at=999.0),
        resident(waiting("half", tenant="poor", share=0.5), ids("b", 1), opened_at=999.0),
    ]
    for held_by_rich, expected in ((3, ["rich-2"]), (2, [])):
        rich = singles(held_by_rich, "rich")
        now = snapshot(nodes=(held_by_rich, 2), residents=[*rich, *poor], queue=[claim])
        assert victims(decided(now, ordering)) == expected


def test_what_another_tenant_holds_within_its_quota_is_safe_from_priority() -> None:
    within = [*singles(2, "owner"), resident(waiting("b", tenant="borrower"), ids("a", 2))]
    urgent = waiting("urgent", tenant="somebody", priority=9)
    now = snapshot(nodes=(3,), residents=within, queue=[urgent], tenants=[*TEAMS, Tenant(name="somebody")])
    assert decided(now) == []


def test_within_a_tenant_priority_decides() -> None:
    urgent = waiting("urgent", tenant="owner", priority=1)
    now = snapshot(nodes=(2,), residents=singles(2, "owner"), queue=[urgent], tenants=TEAMS)
    assert victims(decided(now)) == ["owner-1"]


# --- reclaiming a quota ---


def test_a_borrower_gives_back_what_is_claimed() -> None:
    claim = waiting("claim", at=900.0, tenant="owner")
    now = snapshot(residents=singles(4, "borrower", priority=5), queue=[claim], tenants=TEAMS)
    (preemption,) = decided(now)
    assert victims([preemption]) == ["borrower-3"]
    assert "tenant owner claims its quota of 2 device(s), which others borrow" in preemption.reason


def test_a_borrower_gives_back_no_more_than_it_borrowed() -> None:
    claims = [waiting(f"claim-{n}", tenant="owner") for n in range(2)]
    now = snapshot(nodes=(2,), residents=singles(2, "borrower"), queue=claims, tenants=TEAMS)
    assert victims(decided(now)) == ["borrower-1"]


def test_a_gang_takes_no_tenant_below_its_quota() -> None:
    gang = waiting("gang", tenant="owner", devices=2)
    now = snapshot(nodes=(2,), residents=singles(2, "borrower", at=900.0), queue=[gang], tenants=TEAMS)
    assert decided(now, ordering=fifo) == []


def test_beyond_the_quota_nothing_is_reclaimed() -> None:
    claims = [waiting(f"claim-{n}", tenant="owner") for n in range(4)]
    now = snapshot(residents=singles(4, "borrower"), queue=claims, tenants=TEAMS)
    assert victims(decided(now)) == ["borrower-3", "borrower-2"]


def test_a_tenant_without_a_quota_has_nothing_to_claim() -> None:
    now = snapshot(residents=singles(4, "borrower"), queue=[waiting("x", tenant="guest")], tenants=TEAMS)
    assert decided(now) == []


def test_a_victim_that_could_claim_its_room_back_stays() -> None:
    """Without its two halves of the gang's node the borrower would be within its quota, and come back first."""
    halves = [resident(waiting(f"b{n}", tenant="borrower", devices=2), ids("a", 2 * n, 2 * n + 1)) for n in range(2)]
    pair = waiting("pair", at=900.0, tenant="owner", devices=4)
    tenants = [Tenant(name="owner", quota=4.0), Tenant(name="borrower", quota=2.0)]
    assert decided(snapshot(residents=halves, queue=[pair], tenants=tenants), ordering=fifo) == []


def test_a_gang_that_borrows_leaves_whole_though_less_would_do() -> None:
    gang = resident(waiting("gang", tenant="borrower", devices=4), ids("a", 0, 1, 2, 3))
    claim = waiting("claim", at=900.0, tenant="owner")
    assert victims(decided(snapshot(residents=[gang], queue=[claim], tenants=TEAMS), ordering=fifo)) == ["gang"]


# --- several at once ---


def test_what_leaves_already_is_not_asked_for_twice() -> None:
    claims = [waiting(f"claim-{n}", tenant="owner") for n in range(2)]
    running = singles(4, "borrower")
    running[0] = replace(running[0], stopping=True)
    now = snapshot(residents=running, queue=claims, tenants=TEAMS)
    assert [(p.for_stage_key, victims([p])) for p in decided(now)] == [("claim-1", ["borrower-3"])]


def test_who_leaves_is_not_borrowing_any_more() -> None:
    claims = [waiting(f"claim-{n}", tenant="owner") for n in range(2)]
    running = singles(2, "borrower")
    running[0] = replace(running[0], stopping=True)
    assert decided(snapshot(nodes=(2,), residents=running, queue=claims, tenants=TEAMS)) == []


def test_each_claimant_gets_its_own_room() -> None:
    urgent = [waiting(f"urgent-{n}", priority=1, share=0.5) for n in range(3)]
    assert [(p.for_stage_key, victims([p])) for p in decided(snapshot(residents=singles(4), queue=urgent))] == [
        ("urgent-0", ["default-3"]),
        ("urgent-2", ["default-2"]),
    ]


def test_behind_a_claimant_that_cannot_be_helped_nobody_is() -> None:
    gang, small = waiting("gang", priority=2, devices=3), waiting("small", priority=1)
    now = snapshot(nodes=(2, 2), residents=singles(2), queue=[gang, small])
    assert decided(now) == []


def test_where_there_is_room_nobody_leaves() -> None:
    assert decided(snapshot(residents=singles(3), queue=[waiting("urgent", priority=1)])) == []


def test_nobody_leaves_for_what_an_earlier_victim_would_overtake() -> None:
    """The victim on its way out fits its quota, so it comes back before the claimant, which borrows."""
    earlier = replace(resident(waiting("earlier", tenant="owner"), ids("a", 0)), stopping=True)
    mine = [resident(waiting(f"mine-{n}", tenant="borrower"), ids("a", n)) for n in (1, 2)]
    claims = [waiting("owners", tenant="owner", priority=1), waiting("borrowers", tenant="borrower", priority=1)]
    now = snapshot(nodes=(3,), residents=[earlier, *mine], queue=claims, tenants=TEAMS)
    assert decided(now) == []
    assert victims(decided(now.but(residents=(replace(earlier, stopping=False), *mine)))) != []
