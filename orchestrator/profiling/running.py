"""The profiler in a process of its own. What it is made of is the training code's: here it is a module's name."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import ConfigError
from orchestrator.home import Home
from orchestrator.profiling.choosing import Choice
from orchestrator.service.devices_lock import machine_devices

PROFILER = "experiments.profiling"
"""Run with a folder: reads `request.json` there, writes `measured.json` and `trace.json.gz`."""
REQUEST, MEASURED, TRACE = "request.json", "measured.json", "trace.json.gz"
PROFILE, LOG = "profile.json", "log.txt"
_LOG_LINES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What came of it: `profile.json` as data, and where the files lie."""

    folder: Path
    document: dict[str, Any]

    @property
    def trace(self) -> Path:
        """For chrome://tracing or https://ui.perfetto.dev."""
        return self.folder / TRACE


def run(choice: Choice, home: Home, say: Callable[[str], None]) -> Profile:
    """Runs the stage again under the profiler, on a device of this machine: `artifacts/profiles/TRIAL-TIME` holds what
    comes of it.

    While somebody else has the devices a GPU is left alone and a core is shared, which is said and is in the document.
    Raises ConfigError if the stage fails.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    folder = home.artifacts / "profiles" / f"{choice.trial.trial_id}-{stamp}"
    folder.mkdir(parents=True)
    home.cache.mkdir(exist_ok=True)
    (folder / REQUEST).write_text(json.dumps(choice.request(home.cache)))
    with _devices() as alone:
        if not alone:
            say("another run holds this machine's devices: this is measured on CPU cores that it uses too")
        say(f"running {_steps(choice)} of stage {choice.stage.name} of {choice.trial.trial_id} again ...")
        _run_child(choice, folder, alone)
    measured = json.loads((folder / MEASURED).read_text())
    (folder / MEASURED).unlink()
    (folder / REQUEST).unlink()
    document = {**_heading(choice), "alone": alone, **measured, "trace": str(folder / TRACE)}
    (folder / PROFILE).write_text(json.dumps(document, indent=1))
    return Profile(folder=folder, document=document)


def _run_child(choice: Choice, folder: Path, alone: bool) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not alone:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    log = folder / LOG
    with log.open("w") as output:
        command = [sys.executable, "-m", PROFILER, str(folder)]
        done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        last = " / ".join(log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:])
        raise ConfigError("trial", choice.trial.trial_id, f"its stage failed under the profiler: {last}; see {log}")


def _heading(choice: Choice) -> dict[str, Any]:
    checkpoint = choice.checkpoint
    return {
        "study_id": choice.study.study_id,
        "trial_id": choice.trial.trial_id,
        "stage": choice.stage.name,
        "started_at_step": int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0,
        "runs_held_s": choice.held_s,
        "runs_busy_s": choice.busy_s,
    }


def _steps(choice: Choice) -> str:
    steps = f"{choice.steps} steps" if choice.steps else "all steps"
    return steps if choice.width == 1 else f"{steps} of a stack of {choice.width} copies"


class _Held(Exception):
    """Somebody else has the devices."""


@contextlib.contextmanager
def _devices() -> Iterator[bool]:
    """Holds this machine's devices; False if somebody else does."""

    def give_up() -> None:
        raise _Held

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(machine_devices("profile", 0, lambda _: None, give_up))
        except _Held:
            alone = False
        else:
            alone = True
        yield alone
