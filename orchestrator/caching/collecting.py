"""Making room in an artifacts folder whose studies a store has, while services run on both.

An entry is first hidden by one rename, so that a reader finds all of it or nothing; then the store is asked again who
needs what, and what somebody has come to need in between is put back; the rest is deleted. Whoever relies on an output
marks it as used first, and what was used within `Bounds.min_age_s` is never hidden.
"""

from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.caching.policy import Bounds, InUse, choose, total_bytes
from orchestrator.dotted import resolve
from orchestrator.home import Home
from orchestrator.ports import OutputCache, Store
from orchestrator.schema import Study, Trial
from orchestrator.schema.caching import CacheEntry

RECENTLY_S = 3600.0
"""A leader has a study that is over in mind for a while: its trials may be brought back without another look at what
they need."""
_IMPLEMENTATION = "cluster.output_cache:FolderCache"


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What went (or would go), and how many bytes there were and are."""

    removed: tuple[CacheEntry, ...]
    bytes_before: int
    bytes_after: int


def output_cache(home: Home) -> OutputCache:
    """The artifacts of a home."""
    cache: OutputCache = resolve(_IMPLEMENTATION, "cache")(home.artifacts)
    return cache


def collect(cache: OutputCache, store: Store, bounds: Bounds, now: float, *, dry_run: bool = False) -> Collected:
    """Remove what `choose` chooses, unless it is a `dry_run`. Raises StoreUnavailable before anything was removed."""
    entries = cache.entries()
    chosen = choose(entries, in_use(store, now), bounds, now)
    if not dry_run:
        hidden = {entry: place for entry in chosen if (place := cache.hide(entry)) is not None}
        try:
            needed = in_use(store, now)
        except Exception:
            for entry, place in hidden.items():
                cache.put_back(entry, place)
            raise
        for entry, place in hidden.items():
            cache.put_back(entry, place) if needed.needs(entry) else cache.delete(place)
        chosen = [entry for entry in hidden if not needed.needs(entry)]
        cache.delete_leftovers(now)
    gone = set(chosen)
    after = total_bytes([entry for entry in entries if entry not in gone])
    return Collected(removed=tuple(chosen), bytes_before=total_bytes(entries), bytes_after=after)


def in_use(store: Store, now: float) -> InUse:
    """What the studies of a store need."""
    studies = [s for s in store.studies() if s.ended_at is None or now - s.ended_at < RECENTLY_S]
    open_ids = frozenset(study.study_id for study in studies if study.ended_at is None)
    trials = [trial for study in studies for trial in store.trials(study.study_id)]
    return InUse(
        stage_keys=frozenset(key for trial in trials for key in _stages_needed(trial)),
        kept=frozenset(s.warm_from for t in trials if not t.state.terminal for s in t.variant.stages if s.warm_from),
        study_ids=open_ids,
        bundle_ids=_running(store, studies),
    )


def _stages_needed(trial: Trial) -> list[str]:
    """All of one that goes on; of one that is over those before its last, which a retry would start from."""
    stages = trial.variant.stages[:-1] if trial.state.terminal else trial.variant.stages
    return [stage.key for stage in stages]


def _running(store: Store, studies: Collection[Study]) -> frozenset[str]:
    lines = (line for study in studies for line in store.allocations(study.study_id))
    return frozenset(line.bundle_id for line in lines if line.closed_at is None)
