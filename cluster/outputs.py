"""Where stage outputs lie, and when one counts as there.

    <artifacts>/stages/<stage_key>/       a committed output: the stage's files, outcome.json, manifest.json
    <artifacts>/incoming/<bundle_id>/     an output that is being written; becomes the former by one rename
    <artifacts>/checkpoints/<study_id>/<stage_key>/  survives between attempts of a stage, removed once it is committed
    <artifacts>/cache/                    what any stage may share

A committed output is complete or absent: its files and its manifest reach the disk before the rename does. It
*verifies* when every file of its manifest has the size and the SHA-256 that the manifest says. Equal keys mean equal
outputs, so of two runs of one stage the first to commit wins. Nodes of one cluster share the artifacts folder.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.schema import Outcome

MANIFEST = "manifest.json"
OUTCOME = "outcome.json"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Artifacts:
    """The folder that outputs, checkpoints and shared data live in."""

    root: Path

    def stage(self, stage_key: str) -> Path:
        """Where the committed output of a stage lies. Raises ValueError for a key that is no plain file name."""
        return self.root / "stages" / _plain(stage_key)

    def incoming(self, bundle_id: str) -> Path:
        """Where a bundle writes its output. Raises ValueError for an id that is no plain file name."""
        return self.root / "incoming" / _plain(bundle_id)

    def rendezvous(self, bundle_id: str) -> Path:
        """The file that the processes of a gang meet at."""
        return self.root / "incoming" / f"{_plain(bundle_id)}.rendezvous"

    def checkpoint(self, study_id: str, stage_key: str) -> Path:
        """Where a stage's checkpoints survive between its attempts in one study. Raises ValueError as `stage` does.

        Another study never continues from them: the device-seconds behind them are in this study's ledger.
        """
        return self.root / "checkpoints" / _plain(study_id) / _plain(stage_key)

    def cache(self) -> Path:
        """What any stage may share."""
        return self.root / "cache"

    def prepare(self, bundle_id: str, study_id: str, stage_key: str) -> None:
        """Make the folders of one launch; the incoming one is empty afterwards. Raises OSError."""
        self.discard(bundle_id)
        self.incoming(bundle_id).mkdir(parents=True)
        self.checkpoint(study_id, stage_key).mkdir(parents=True, exist_ok=True)
        self.cache().mkdir(parents=True, exist_ok=True)

    def discard(self, bundle_id: str) -> None:
        """Remove what a bundle left behind uncommitted; nothing there is fine."""
        shutil.rmtree(self.incoming(bundle_id), ignore_errors=True)
        self.rendezvous(bundle_id).unlink(missing_ok=True)

    def forget_checkpoint(self, study_id: str, stage_key: str) -> None:
        """Remove the checkpoints of a stage whose output is committed; none there is fine."""
        folder = self.checkpoint(study_id, stage_key)
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # other stages of the study still have theirs
            folder.parent.rmdir()

    def commit(self, bundle_id: str, stage_key: str, outcome: Outcome) -> Outcome:
        """Make the incoming output of `bundle_id` the output of `stage_key`, on disk before it is visible.

        A verified output that is already there wins: then this bundle's files are dropped and the metrics are those
        committed before, with this run's own cost. An existing output that doesn't verify is replaced. Raises OSError.
        """
        source, target = self.incoming(bundle_id), self.stage(stage_key)
        _write_json(source / OUTCOME, asdict(outcome))
        _write_json(source / MANIFEST, {"stage_key": stage_key, "files": _describe(source)})
        _fsync(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            committed = self.verified(stage_key)
            if committed is not None:
                shutil.rmtree(source)
                return replace(committed, busy_s=outcome.busy_s, peak_memory_bytes=outcome.peak_memory_bytes)
            try:
                source.rename(target)
            except OSError:
                # Something is there that doesn't verify. Its name is given up before it is deleted, so that no reader
                # ever sees half of it; if another process commits in between, the next round finds its output.
                if not target.exists():
                    raise
                doomed = self.incoming(f"{bundle_id}.damaged")
                target.rename(doomed)
                shutil.rmtree(doomed)
                continue
            _fsync(target.parent)
            return outcome

    def verified(self, stage_key: str) -> Outcome | None:
        """The outcome of a committed output whose files are all as its manifest says; None if there is no such."""
        folder = self.stage(stage_key)
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            files: Mapping[str, Mapping[str, Any]] = manifest["files"]
            if OUTCOME not in files or any(_fingerprint(folder / name) != entry for name, entry in files.items()):
                return None
            return Outcome(**json.loads((folder / OUTCOME).read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # tolerated on purpose: an unreadable output is an absent one, and its stage is run again

    def available(self, stage_keys: Iterable[str]) -> set[str]:
        """Those of `stage_keys` whose output verifies. Reads every byte of them."""
        return {key for key in stage_keys if self.verified(key) is not None}


def _plain(name: str) -> str:
    if not name or name in {".", ".."} or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} can't name a folder: stage keys and bundle ids are plain file names")
    return name


def _describe(folder: Path) -> dict[str, dict[str, Any]]:
    """Fingerprints by relative path of every file under `folder`, each flushed to disk on the way."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        _fsync(path)
        files[path.relative_to(folder).as_posix()] = _fingerprint(path)
    for path in folder.rglob("*"):
        if path.is_dir():
            _fsync(path)
    return files


def _fingerprint(path: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return {"sha256": digest.hexdigest(), "bytes": size}


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1, sort_keys=True, default=float))
    _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
