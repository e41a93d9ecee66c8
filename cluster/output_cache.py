"""The artifacts folder as entries that are removed whole: `ports.OutputCache`. See `outputs` for its layout.

    <artifacts>/doomed/<a name of its own>/   what has been taken out of its place, and is deleted

A folder leaves its place by one rename. Two that want the same one: the second finds it gone. What somebody who died
had hidden is deleted by whoever comes `LEFTOVER_S` later.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from cluster.outputs import Artifacts
from orchestrator.schema.caching import CacheEntry, CacheKind

LEFTOVER_S = 600.0


class FolderCache:
    """What an artifacts folder holds."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._doomed = root / "doomed"

    def entries(self) -> list[CacheEntry]:
        """See `ports.OutputCache`."""
        found = (self._entry(kind, name, path) for kind, name, path in self._places())
        return [entry for entry in found if entry is not None]

    def verifies(self, entry: CacheEntry) -> bool | None:
        """See `ports.OutputCache`."""
        if entry.kind is not CacheKind.OUTPUT:
            return None
        return Artifacts(self._root).verified(entry.name) is not None

    def hide(self, entry: CacheEntry) -> str | None:
        """See `ports.OutputCache`."""
        path, place = self._path(entry), uuid.uuid4().hex
        self._doomed.mkdir(parents=True, exist_ok=True)
        try:
            if path.stat().st_mtime > entry.used_at:
                return None
            path.rename(self._doomed / place)
        except FileNotFoundError:
            return None
        # It may have been needed between the look and the rename.
        if (self._doomed / place).stat().st_mtime > entry.used_at:
            self.put_back(entry, place)
            return None
        return place

    def put_back(self, entry: CacheEntry, place: str) -> None:
        """See `ports.OutputCache`."""
        try:
            (self._doomed / place).rename(self._path(entry))
        except OSError:  # it has been made again, or its study's folder is gone
            self.delete(place)

    def delete(self, place: str) -> None:
        """See `ports.OutputCache`."""
        path = self._doomed / place
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def delete_leftovers(self, now: float) -> None:
        """See `ports.OutputCache`."""
        for path in _children(self._doomed):
            with contextlib.suppress(FileNotFoundError):
                if now - path.stat().st_ctime >= LEFTOVER_S:
                    self.delete(path.name)
        for trunk in _children(self._root / "trunks"):
            for note in _children(trunk):
                if not (self._root / "stages" / note.name).exists():
                    note.unlink(missing_ok=True)
        for study in _children(self._root / "checkpoints"):
            with contextlib.suppress(OSError):  # it holds some
                study.rmdir()

    def _places(self) -> Iterator[tuple[CacheKind, str, Path]]:
        for kind, folder in _FOLDERS.items():
            for path in _children(self._root / folder):
                if kind is not CacheKind.CHECKPOINT:
                    yield kind, path.name, path
                    continue
                for stage in _children(path):
                    yield kind, f"{path.name}/{stage.name}", stage

    def _path(self, entry: CacheEntry) -> Path:
        return self._root / _FOLDERS[entry.kind] / entry.name

    def _entry(self, kind: CacheKind, name: str, path: Path) -> CacheEntry | None:
        try:
            used_at = path.stat().st_mtime
            files = [file.stat() for file in (path.rglob("*") if path.is_dir() else (path,)) if file.is_file()]
        except OSError:  # it went away meanwhile
            return None
        return CacheEntry(
            kind=kind,
            name=name,
            files=frozenset((f"{stat.st_dev}:{stat.st_ino}", stat.st_size) for stat in files),
            made_at=min([used_at, *(stat.st_mtime for stat in files)]),
            used_at=used_at,
        )


_FOLDERS = {
    CacheKind.OUTPUT: "stages",
    CacheKind.KEPT: "kept",
    CacheKind.CHECKPOINT: "checkpoints",
    CacheKind.SHARED: "cache",
    CacheKind.UNFINISHED: "incoming",
}


def _children(folder: Path) -> list[Path]:
    """By name; none of a folder that isn't there. What begins with a dot is being made."""
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
