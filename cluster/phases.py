"""Gates that keep programs on one device in antiphase: at most one is in a phase at a time.

A gate is a lock of the kernel's on a file in a folder of its device. Who is killed leaves its gate with that. Whoever
wants one first takes the turnstile before it, and gives that back once the gate is theirs: who has just left a gate and
wants it again finds the turnstile taken by the one that waits. So two programs strictly alternate where both want one
gate all the time; more than two are let through the turnstile in the kernel's order.

A program holds one gate at a time and waits for the next one with none, so nobody waits in a circle. Alone on a device
it takes and gives back four locks a step, some microseconds.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class GateFolders:
    """The folders with the gates of a node's devices, on the node's own disk. Made when first asked for."""

    def __init__(self) -> None:
        self._root: Path | None = None

    def of(self, device_index: int) -> Path:
        """Of one device; it is there. Raises OSError."""
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix="phases-"))
        folder = self._root / str(device_index)
        folder.mkdir(exist_ok=True)
        return folder

    def remove(self) -> None:
        """All of them: no program is left."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None


class Gates:
    """The gates of one device, as one program sees them. `folder` "": there is nobody to take turns with."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._files: dict[str, int] = {}

    @contextmanager
    def through(self, phase: str) -> Iterator[None]:
        """Inside, no other program on the device is in this phase; waits until that is so. Raises OSError."""
        if not self._folder:
            yield
            return
        gate = self._file(phase)
        turnstile = self._file(f"{phase}.turnstile")
        fcntl.flock(turnstile, fcntl.LOCK_EX)
        try:
            fcntl.flock(gate, fcntl.LOCK_EX)
        finally:
            fcntl.flock(turnstile, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(gate, fcntl.LOCK_UN)

    def _file(self, name: str) -> int:
        """Kept open: one file is one holder to the kernel, so nobody shares theirs."""
        if name not in self._files:
            self._files[name] = os.open(Path(self._folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._files[name]
