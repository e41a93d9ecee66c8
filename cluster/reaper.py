"""Tidies up once whoever asked for it has ended, however it did: `python -m cluster.reaper FOLDER PID ...`.

For processes that the kernel doesn't end with their starter, since others have started them, and the folder that they
write to. Imports nothing heavy.
"""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterable

import psutil

_WAIT_S = 5.0


class Reaper:
    """A process of its own that waits for the end of this one."""

    def __init__(self, folder: str, pids: Iterable[int]) -> None:
        command = [sys.executable, "-P", "-m", "cluster.reaper", folder, *map(str, pids)]
        # Its own session: the terminal's Ctrl-C, and what kills this process's group, don't reach it.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def close(self) -> None:
        """Tidy up now."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Wait for the end of standard input, kill, remove."""
    processes = []
    folder, *pids = sys.argv[1:]
    for pid in map(int, pids):
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(pid))
    sys.stdin.buffer.read()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # also if its number is another process's by now
            process.kill()
    psutil.wait_procs(processes, _WAIT_S)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
