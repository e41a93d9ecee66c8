"""Where stage outputs lie, and when one counts as there.

    <artifacts>/stages/<stage_key>/       a committed output: the stage's files, outcome.json, manifest.json
    <artifacts>/incoming/<bundle_id>/     an output that is being written; becomes the former by one rename
    <artifacts>/checkpoints/<study_id>/<stage_key>/  survives between attempts of a stage and beyond its end; the stage
                                          writes folders `step-N` there, whole or not at all, and removes older ones
    <artifacts>/kept/<name>/              one such folder, kept for warm stages to start from
    <artifacts>/trunks/<trunk>/<stage_key>  says that the output of the stage holds its last checkpoint, in `state/`,
                                          and at which step of the trunk
    <artifacts>/cache/                    what any stage may share

A committed output is complete or absent: its files and its manifest reach the disk before the rename does. It
*verifies* when every file of its manifest has the size and the SHA-256 that the manifest says. Equal keys mean equal
outputs, so of two runs of one stage the first to commit wins. Nodes of one cluster share the artifacts folder.

The time of a folder (an output's, a kept checkpoint's, that of a stage's checkpoints) is when somebody last needed it;
`output_cache.py` removes what has not been needed for longest.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.schema import Outcome, Stage

MANIFEST = "manifest.json"
OUTCOME = "outcome.json"
STEP = "step-"
STATE, TRUNK = "state", "trunk.json"
_CHUNK_BYTES = 1 << 20
_STUDY_DIGITS = 8
_FSYNCS_AT_ONCE = 8


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

    def kept(self, name: str) -> Path:
        """Where a kept checkpoint lies. Raises ValueError for a name that is no plain file name."""
        return self.root / "kept" / _plain(name)

    def cache(self) -> Path:
        """What any stage may share."""
        return self.root / "cache"

    def start_of(self, stage: Stage) -> Path | None:
        """The checkpoint that a stage starts from which has none of its own: a kept one, or the one in the output of
        the stage that it continues. That output and its parent's are in use now."""
        for key in (stage.parent_key, stage.continues):
            if key:
                mark_used(self.stage(key))
        if stage.warm_from:
            mark_used(self.kept(stage.warm_from))
            return self.kept(stage.warm_from)
        return self.stage(stage.continues) / STATE if stage.continues else None

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

    def keep(self, study_id: str, stage_key: str) -> tuple[str, int] | None:
        """Keep the newest checkpoint of a stage, on disk when the call returns: its name under `kept` and its step.

        The last one in its output, if that holds it, where its own are gone. None if the stage has no checkpoint. The
        same checkpoint has the same name. Files are shared with the stage's own folder by hard links, or copied where
        the file system has none. Raises OSError.
        """
        folder = self.checkpoint(study_id, stage_key)
        while (step := _newest_step(folder)) is not None:
            study = hashlib.sha256(study_id.encode()).hexdigest()[:_STUDY_DIGITS]
            target = self.kept(f"{stage_key}-{step}-{study}")
            if target.exists() or self._link(folder, step, target):
                mark_used(target)
                return target.name, step
        return self._keep_state(stage_key)

    def _keep_state(self, stage_key: str) -> tuple[str, int] | None:
        try:
            step = int(json.loads((self.stage(stage_key) / TRUNK).read_bytes())["steps"])
        except FileNotFoundError:
            return None
        target = self.kept(f"{stage_key}-{step}-{STATE}")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
            shutil.copytree(self.stage(stage_key) / STATE, unfinished, copy_function=_link_or_copy, dirs_exist_ok=True)
            _fsync_tree(unfinished)
            unfinished.rename(target)
            _fsync(target.parent)
        mark_used(target)
        return target.name, step

    def _link(self, folder: Path, step: int, target: Path) -> bool:
        """Whether checkpoint `step` of `folder` is at `target` now. False if the stage wrote a newer one meanwhile: it
        may have begun to remove this one, which it does in no other case."""
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
        try:
            shutil.copytree(folder / f"{STEP}{step}", unfinished, copy_function=_link_or_copy, dirs_exist_ok=True)
            whole = _newest_step(folder) == step
            if whole:
                _fsync_tree(unfinished)
                unfinished.rename(target)
                _fsync(target.parent)
            return whole
        except OSError:
            if target.exists():  # somebody else kept it at the same moment
                return True
            if _newest_step(folder) == step:
                raise
            return False
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def commit(self, bundle_id: str, stage_key: str, outcome: Outcome) -> Outcome:
        """Make the incoming output of `bundle_id` the output of `stage_key`, on disk before it is visible.

        A verified output that is already there wins: then this bundle's files are dropped and the metrics are those
        committed before, with this run's own cost. An existing output that doesn't verify is replaced. Raises OSError.
        """
        source, target = self.incoming(bundle_id), self.stage(stage_key)
        _write_json(source / OUTCOME, asdict(outcome))
        _write_json(source / MANIFEST, {"stage_key": stage_key, "files": _describe(source)})
        _fsync_tree(source)
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
            self._note_trunk(stage_key)
            return outcome

    def _note_trunk(self, stage_key: str) -> None:
        """So that whoever looks for an end of the trunk finds it by the trunk's key."""
        with contextlib.suppress(FileNotFoundError):
            said = (self.stage(stage_key) / TRUNK).read_text()
            folder = self.root / "trunks" / _plain(json.loads(said)["trunk"])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / stage_key).write_text(said)

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
        """Those of `stage_keys` whose output verifies, which counts as use. Reads every byte of them."""
        available = set()
        for key in stage_keys:
            # First, so that it is not removed between the look and the use.
            mark_used(self.stage(key))
            if self.verified(key) is not None:
                available.add(key)
        return available


def mark_used(folder: Path) -> None:
    """The folder was needed just now; one that isn't there, or can't be written to, is left alone."""
    with contextlib.suppress(OSError):
        os.utime(folder)


def _plain(name: str) -> str:
    if not name or name in {".", ".."} or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} can't name a folder: stage keys and bundle ids are plain file names")
    return name


def _newest_step(folder: Path) -> int | None:
    return max((int(path.name.removeprefix(STEP)) for path in folder.glob(f"{STEP}*")), default=None)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def _describe(folder: Path) -> dict[str, dict[str, Any]]:
    """Fingerprints by relative path of every file under `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _fingerprint(path) for path in files}


def _fsync_tree(folder: Path) -> None:
    """All at once: a file system with a journal then writes one entry for all, and not one after the other."""
    paths = [*folder.rglob("*"), folder]
    with ThreadPoolExecutor(min(len(paths), _FSYNCS_AT_ONCE)) as pool:
        for done in [pool.submit(_fsync, path) for path in paths]:
            done.result()


def _fingerprint(path: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return {"sha256": digest.hexdigest(), "bytes": size}


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1, sort_keys=True, default=float))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
