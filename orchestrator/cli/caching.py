"""`cache ls|gc`: stage outputs and checkpoints. For whoever may open the home itself."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import EXIT_FAILED, Format, OutputFormat, refusals

if TYPE_CHECKING:
    from orchestrator.ports import OutputCache, Store

LS_EXAMPLES = """
Examples:\n
\b
  orchestrator cache ls
  orchestrator cache ls --verify --format json
"""
GC_EXAMPLES = """
Examples:\n
\b
  orchestrator cache gc --keep-gib 200 --dry-run
  orchestrator cache gc --keep-gib 0
"""

_LEAST_AGE_S = 60.0


def ls(
    verify: Annotated[bool, typer.Option("--verify", help="Read every byte of outputs; exit 1 if one is bad.")] = False,
    format: Format = OutputFormat.table,
) -> None:
    """List outputs, checkpoints and shared data: size, age, last use, and which stage of which study made them."""
    with refusals(), _opened() as (cache, store):
        import json

        from orchestrator.caching.listing import describe, print_entries
        from orchestrator.caching.policy import total_bytes

        now = time.time()
        rows = describe(cache, store, now, verify=verify)
        if format is OutputFormat.json:
            typer.echo(json.dumps(rows, indent=1))
        else:
            print_entries(rows, total_bytes(cache.entries()), now)
        if any(row["verified"] is False for row in rows):
            raise typer.Exit(EXIT_FAILED)


def gc(
    keep_gib: Annotated[float, typer.Option(help="How much may stay [GiB].", min=0.0)],
    min_age_s: Annotated[
        float, typer.Option(help="What was used within this time stays [s].", min=_LEAST_AGE_S)
    ] = 3600.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
) -> None:
    """Remove the outputs, and the checkpoints of studies that are over, which were used least recently, until the rest
    fits. What a trial needs that waits, runs or is paused stays; a service may run meanwhile."""
    with refusals(), _opened() as (cache, store):
        from orchestrator.caching import Bounds, collect

        bounds = Bounds(max_bytes=int(keep_gib * 2**30), min_age_s=min_age_s)
        collected = collect(cache, store, bounds, time.time(), dry_run=dry_run)
        for entry in collected.removed:
            typer.echo(f"{entry.kind} {entry.name}: {entry.bytes / 2**20:.1f} MiB")
        verb = "would be removed" if dry_run else "removed"
        before, after = collected.bytes_before / 2**30, collected.bytes_after / 2**30
        typer.echo(f"{len(collected.removed)} {verb}: {before:.3f} GiB before, {after:.3f} GiB after")
        if collected.bytes_after > bounds.max_bytes:
            typer.echo("the rest is needed by trials that are not over, was used just now, or is shared data")


@contextmanager
def _opened() -> Iterator[tuple["OutputCache", "Store"]]:
    from orchestrator.caching import output_cache
    from orchestrator.home import Home
    from orchestrator.store.opening import usable_store

    home = Home.from_environment()
    home.prepare()
    with closing(usable_store(home)) as store:
        yield output_cache(home), store
