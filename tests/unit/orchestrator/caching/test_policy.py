"""What goes, and in which order."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.caching.policy import Bounds, InUse, choose, total_bytes
from orchestrator.schema.caching import CacheEntry, CacheKind

NOW = 10_000.0
NOBODY = InUse(stage_keys=frozenset(), kept=frozenset(), study_ids=frozenset(), bundle_ids=frozenset())


def entry(
    name: str, used_at: float = 0.0, kind: CacheKind = CacheKind.OUTPUT, size: int = 10, file: str = ""
) -> CacheEntry:
    files = frozenset({(file or f"{kind}/{name}", size)})
    return CacheEntry(kind=kind, name=name, files=files, made_at=used_at, used_at=used_at)


def names(entries: list[CacheEntry], in_use: InUse = NOBODY, max_bytes: int = 0, min_age_s: float = 60.0) -> list[str]:
    bounds = Bounds(max_bytes=max_bytes, min_age_s=min_age_s)
    return [e.name for e in choose(entries, in_use, bounds, NOW)]


def test_the_least_recently_used_go_first_and_no_more_than_it_takes() -> None:
    assert names([entry("c", 3), entry("a", 1), entry("b", 2), entry("d", 4)], max_bytes=20) == ["a", "b"]


def test_nothing_goes_where_all_fits() -> None:
    assert names([entry("a"), entry("b")], max_bytes=20) == []


def test_what_was_used_just_now_stays() -> None:
    assert names([entry("a", NOW - 61), entry("b", NOW - 59)]) == ["a"]


def test_outputs_kept_checkpoints_and_checkpoints_of_studies_that_are_over_go_alike() -> None:
    entries = [
        entry("over/k", 1, CacheKind.CHECKPOINT),
        entry("k-3-s", 2, CacheKind.KEPT),
        entry("k", 3),
        entry("problems.json", 0, CacheKind.SHARED),
    ]
    assert names(entries) == ["over/k", "k-3-s", "k"]


def test_what_somebody_needs_stays_and_shared_data_does() -> None:
    entries = [
        entry("needed"),
        entry("kept-needed", kind=CacheKind.KEPT),
        entry("open/k", kind=CacheKind.CHECKPOINT),
        entry("writes", kind=CacheKind.UNFINISHED),
        entry("writes.rendezvous", kind=CacheKind.UNFINISHED),
        entry("shared", kind=CacheKind.SHARED),
    ]
    in_use = InUse(
        stage_keys=frozenset({"needed"}),
        kept=frozenset({"kept-needed"}),
        study_ids=frozenset({"open"}),
        bundle_ids=frozenset({"writes"}),
    )
    assert names(entries, in_use) == []


def test_what_nobody_finishes_any_more_goes_at_any_rate() -> None:
    assert names([entry("a"), entry("dead", kind=CacheKind.UNFINISHED)], max_bytes=1000) == ["dead"]


def test_a_file_that_entries_share_counts_once_and_comes_free_with_the_last_of_them() -> None:
    shared = [entry("s/k", 1, CacheKind.CHECKPOINT, file="f"), entry("k-1-s", 2, CacheKind.KEPT, file="f")]
    entries = [*shared, entry("b", 3), entry("c", 4)]
    assert total_bytes(entries) == 30
    assert names(entries, max_bytes=20) == ["s/k", "k-1-s"]


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9), st.integers(0, 5)), max_size=12),
    st.integers(0, 60),
    st.sets(st.integers(0, 11)),
)
def test_what_stays_fits_unless_nothing_more_may_go(
    rows: list[tuple[int, int, int]], limit: int, needed: set[int]
) -> None:
    entries = [
        entry(str(n), float(used), size=size, file=f"f{file}-{size}") for n, (used, size, file) in enumerate(rows)
    ]
    in_use = replace(NOBODY, stage_keys=frozenset(map(str, needed)))
    gone = choose(entries, in_use, Bounds(max_bytes=limit, min_age_s=60.0), NOW)
    left = [e for e in entries if e not in gone]
    free = [e for e in left if not in_use.needs(e)]
    assert not any(in_use.needs(e) for e in gone)
    assert total_bytes(left) <= limit or not free
    # One fewer would not have done.
    assert not gone or total_bytes([*left, gone[-1]]) > limit
    assert all(g.used_at <= f.used_at for g in gone for f in free)
