"""One process per variant and device, as a shell loop or a Slurm array runs a script.

As many at once as there are devices, each pinned to its own core. Each process imports torch and DeepSpeed, trains a
warm-up of its own and then its stage, and holds its core from its start to its exit.

    python -m tests.bench.peers.shell_loop FOLDER NUMBER      one variant
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers.accounting import Experiment, Hold
from tests.bench.peers.payload import logged, train_and_log
from tests.bench.peers.study import numbers

POLL_S = 0.01


def run(folder: Path) -> tuple[list[Experiment], list[Hold]]:
    """Every variant in a process of its own. Raises RuntimeError if one fails."""
    commands = [[sys.executable, "-m", "tests.bench.peers.shell_loop", str(folder), str(n)] for n in numbers(folder)]
    holds = run_pinned(commands, sorted(os.sched_getaffinity(0)))
    experiments, _ = logged(folder)
    return experiments, holds


def run_pinned(commands: Sequence[Sequence[str]], cores: Sequence[int]) -> list[Hold]:
    """Runs the commands in order, one at a time on each core. Raises RuntimeError for one that fails."""
    waiting, holds = list(commands), []
    running: dict[int, tuple[subprocess.Popen[bytes], float]] = {}
    while waiting or running:
        for core in cores:
            if core not in running and waiting:
                running[core] = _pinned(waiting.pop(0), core), time.time()
            if core in running and (code := running[core][0].poll()) is not None:
                process, began_at = running.pop(core)
                if code:
                    raise RuntimeError(f"{process.args} ended with {code}")
                holds.append(Hold(share=1.0, began_at=began_at, ended_at=time.time()))
        time.sleep(POLL_S)
    return holds


def _pinned(command: Sequence[str], core: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, preexec_fn=lambda: os.sched_setaffinity(0, {core}))


if __name__ == "__main__":
    train_and_log(Path(sys.argv[1]), int(sys.argv[2]))
