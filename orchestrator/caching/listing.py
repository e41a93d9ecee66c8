"""What there is in an artifacts folder, in words: as plain data, and as a table."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.caching.collecting import in_use
from orchestrator.caching.policy import InUse
from orchestrator.ports import OutputCache, Store
from orchestrator.report.times import when
from orchestrator.schema import Allocation
from orchestrator.schema.caching import CacheEntry

_VERIFIED = {True: "yes", False: "NO", None: "-"}


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
    """Print what `describe` gave. `total_bytes`: of all, files that several share counted once."""
    table = Table()
    for column in ("kind", "name", "size", "made", "last used", "stage", "study", "needed", "verifies"):
        table.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
    for row in rows:
        study, _, stage = row["name"].rpartition("/")
        table.add_row(
            row["kind"],
            stage if study else row["name"],
            f"{row['bytes'] / 2**20:.1f} MiB",
            when(row["made_at"], now),
            when(row["used_at"], now),
            row["stage"],
            row["study"],
            "yes" if row["needed"] else "",
            _VERIFIED[row["verified"]],
        )
    console = Console()
    console.print(table)
    console.print(f"{len(rows)} entries, {total_bytes / 2**30:.3f} GiB on disk")
