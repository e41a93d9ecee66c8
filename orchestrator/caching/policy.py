"""Which entries go, so that the rest fits: the least recently used first. Pure."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from orchestrator.schema.caching import CacheEntry, CacheKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """max_bytes: how much may stay. min_age_s: what was used within this time stays in any case [s]."""

    max_bytes: int
    min_age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InUse:
    """What trials that are queued, running or paused need, and what they might if somebody brings others back: keys of
    stages, names of kept checkpoints, ids of studies that are not over (with all their checkpoints) and of bundles."""

    stage_keys: frozenset[str]
    kept: frozenset[str]
    study_ids: frozenset[str]
    bundle_ids: frozenset[str]

    def needs(self, entry: CacheEntry) -> bool:
        """Whether the entry must stay."""
        match entry.kind:
            case CacheKind.OUTPUT:
                return entry.name in self.stage_keys
            case CacheKind.KEPT:
                return entry.name in self.kept
            case CacheKind.CHECKPOINT:
                return entry.study_id in self.study_ids
            case CacheKind.UNFINISHED:
                return entry.name.split(".")[0] in self.bundle_ids  # what it meets at has its name, and a suffix
            case CacheKind.SHARED:
                return True  # what it costs to make again is paid by whoever waits for a device meanwhile


def total_bytes(entries: Collection[CacheEntry]) -> int:
    """What the entries take together; a file that several share counts once."""
    return sum(dict(file for entry in entries for file in entry.files).values())


def choose(entries: Sequence[CacheEntry], in_use: InUse, bounds: Bounds, now: float) -> list[CacheEntry]:
    """What goes, in this order: outputs that were never finished and that no bundle writes any more, at any rate; then
    outputs, kept checkpoints and checkpoints, least recently used first (ties by kind and name), until what is left
    takes no more than `bounds.max_bytes`, or nothing may go any more."""
    old = [e for e in entries if now - e.used_at >= bounds.min_age_s and not in_use.needs(e)]
    chosen = [entry for entry in old if entry.kind is CacheKind.UNFINISHED]
    shared_by = Counter(file for entry in entries for file in entry.files)
    left = total_bytes(entries) - sum(_freed(entry, shared_by) for entry in chosen)
    candidates = (entry for entry in old if entry.kind is not CacheKind.UNFINISHED)
    for entry in sorted(candidates, key=lambda e: (e.used_at, e.kind, e.name)):
        if left <= bounds.max_bytes:
            break
        left -= _freed(entry, shared_by)
        chosen.append(entry)
    return chosen


def _freed(entry: CacheEntry, shared_by: Counter[tuple[str, int]]) -> int:
    """The bytes that come free when the entry goes, which is taken note of."""
    shared_by.subtract(entry.files)
    return sum(size for file, size in entry.files if not shared_by[file, size])
