"""What there is in an artifacts folder, in words: as plain data, and as a table."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from orchestrator.caching.collecting import in_use
from orchestrator.caching.policy import InUse
from orchestrator.ports import OutputCache, Store
from orchestrator.report.grid import Grid
from orchestrator.report.table import print_grid
from orchestrator.report.times import span
from orchestrator.schema import Allocation
from orchestrator.schema.caching import CacheEntry

_VERIFIED = {True: "yes", False: "NO", None: ""}
_DIGITS = 12


def describe(cache: OutputCache, store: Store, now: float, *, verify: bool = False) -> list[dict[str, Any]]:
    """One object per entry, the latest used first: kind, name, bytes, files, made_at, used_at [s since the epoch],
    stage (its name, as the recipe has it), study (that ran it first), needed (by a trial that is not over), verified
    (null unless `verify`, and for all but outputs)."""
    first: dict[str, Allocation] = {}
    for line in store.allocations():
        first.setdefault(line.stage_key, line)
    needed = in_use(store, now)
    entries = sorted(cache.entries(), key=lambda entry: -entry.used_at)
    return [_described(cache, store, entry, first.get(entry.stage_key), needed, verify=verify) for entry in entries]


def _described(
    cache: OutputCache, store: Store, entry: CacheEntry, line: Allocation | None, needed: InUse, *, verify: bool
) -> dict[str, Any]:
    stages = store.trial(line.trial_ids[0]).variant.stages if line is not None and line.trial_ids else ()
    return {
        "kind": entry.kind.value,
        "name": entry.name,
        "bytes": entry.bytes,
        "files": len(entry.files),
        "made_at": entry.made_at,
        "used_at": entry.used_at,
        "stage": next((stage.name for stage in stages if stage.key == entry.stage_key), ""),
        "study": entry.study_id or (line.study_id if line is not None else ""),
        "needed": needed.needs(entry),
        "verified": cache.verifies(entry) if verify else None,
    }


def print_entries(rows: Sequence[dict[str, Any]], total_bytes: int, now: float) -> None:
    """Print what `describe` gave, names cut short. `total_bytes`: of all, files that several share counted once."""
    header = ("kind", "name", "MiB", "made", "used", "stage", "study", "needed", "verifies")
    cells = tuple(
        (
            row["kind"],
            row["name"].rpartition("/")[2][:_DIGITS],
            f"{row['bytes'] / 2**20:.1f}",
            f"{span(now - row['made_at'])} ago",
            f"{span(now - row['used_at'])} ago",
            row["stage"],
            row["study"],
            "yes" if row["needed"] else "",
            _VERIFIED[row["verified"]],
        )
        for row in rows
    )
    console = Console(highlight=False)
    title = f"{len(rows)} entries, {total_bytes / 2**30:.3f} GiB on disk (full names: --format json)"
    print_grid(Grid(title, header, cells, frozenset({"MiB"})), console)
