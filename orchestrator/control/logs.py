"""What a trial printed, in parts: every run of every stage of it has a log of its own, named after its bundle."""

import codecs
import os
from pathlib import Path

from orchestrator.config import ConfigError
from orchestrator.control.operations import LogChunk
from orchestrator.home import Home
from orchestrator.ports import Store
from orchestrator.schema import Allocation, Trial, TrialState

CHUNK_BYTES = 64 << 10


def log_chunk(store: Store, home: Home, trial: Trial, bundle_id: str, offset: int) -> LogChunk:
    """The next part, of at most `CHUNK_BYTES`, behind `offset` [bytes] of that bundle's log; ("", 0) is the beginning.

    Where a bundle's log ends the next one's begins. Raises ConfigError for a bundle that isn't the trial's.
    """
    lines = [line for line in store.allocations(trial.study_id) if trial.trial_id in line.trial_ids]
    waits = trial.state in (TrialState.QUEUED, TrialState.RUNNING)
    if not lines:
        return LogChunk(text="", bundle_id="", offset=0, over=not waits)
    position = _position(lines, bundle_id)
    offset = max(0, offset) if bundle_id else 0
    while True:
        line = lines[position]
        text, offset = _read(home.root / "logs" / f"{line.bundle_id}.log", offset, closed=line.closed_at is not None)
        last = position + 1 == len(lines)
        if text or last or line.closed_at is None:
            over = not waits and last and not text
            return LogChunk(text=text, bundle_id=line.bundle_id, offset=offset, over=over)
        position, offset = position + 1, 0


def _position(lines: list[Allocation], bundle_id: str) -> int:
    # A bundle's id becomes part of a path: only those of the ledger are looked for.
    if not bundle_id:
        return 0
    for position, line in enumerate(lines):
        if line.bundle_id == bundle_id:
            return position
    raise ConfigError("bundle_id", bundle_id, "the trial has no such run; leave it out to read from the beginning")


def _read(path: Path, offset: int, *, closed: bool) -> tuple[str, int]:
    """Text and where it ends [bytes]. A character that isn't all there yet is left for the next time, unless nobody
    writes any more. A log that isn't on this machine is empty."""
    try:
        with path.open("rb") as log:
            log.seek(min(offset, os.fstat(log.fileno()).st_size))
            data = log.read(CHUNK_BYTES)
    except FileNotFoundError:
        return "", offset
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    whole = closed and len(data) < CHUNK_BYTES
    text = decoder.decode(data, final=whole)
    unfinished = decoder.getstate()[0]
    return text, offset + len(data) - len(unfinished)
