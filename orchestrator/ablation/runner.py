"""Runs the arrangements of an ablation one after the other, each in a home of its own.

A home of its own has no outputs of earlier studies, so that no arrangement lives on what another one trained. Each runs
as the command that a person would give. What is done stays done: an ablation that was interrupted goes on in its
folder.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.ablation.mechanisms import without
from orchestrator.config import ConfigError
from orchestrator.control.direct import DirectOperations
from orchestrator.home import HOME_VARIABLE, STORE_VARIABLE, Home
from orchestrator.store.database import DatabaseStore

ALL, NONE = "all", "none"
_RESULT, _LOG, _PLAN = "result.json", "run.log", "ablation.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """One way to run the study. `off`: the mechanisms that are switched off in it."""

    name: str
    off: tuple[str, ...]
    overrides: tuple[str, ...]


def arrangements(overrides: Sequence[str], names: Sequence[str]) -> tuple[Arrangement, ...]:
    """All mechanisms, without each of `names` in turn, and without all of them."""
    offs = [(ALL, ()), *((f"without {name}", (name,)) for name in names)]
    if len(names) > 1:
        offs.append((NONE, tuple(names)))
    return tuple(Arrangement(name=name, off=off, overrides=without(overrides, off)) for name, off in offs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """`folder` holds a home for each arrangement and repeat; `say` takes lines for whoever waits."""

    folder: Path
    arrangements: tuple[Arrangement, ...]
    repeats: int
    say: Callable[[str], None]

    def run(self) -> list[dict[str, Any]]:
        """One result for each arrangement and repeat; repeats take turns, so that what changes about the machine while
        they run is shared by all. Raises ConfigError if a run fails, or the folder holds another ablation."""
        self._claim()
        results = []
        for repeat, arrangement in self._turns():
            home = self.folder / f"{arrangement.name.replace(' ', '-')}-{repeat}"
            done = home / _RESULT
            if not done.exists():
                self.say(f"{arrangement.name} ({repeat + 1} of {self.repeats}): {' '.join(arrangement.overrides)}")
                result = self._run_one(home, arrangement) | {"arrangement": arrangement.name, "repeat": repeat}
                done.write_text(json.dumps(result | {"off": list(arrangement.off)}, indent=1))
            results.append(json.loads(done.read_text()))
            self.say(f"  {_in_words(results[-1])}")
        return results

    def _turns(self) -> Iterator[tuple[int, Arrangement]]:
        return ((repeat, arrangement) for repeat in range(self.repeats) for arrangement in self.arrangements)

    def _claim(self) -> None:
        plan = {arrangement.name: list(arrangement.overrides) for arrangement in self.arrangements}
        file = self.folder / _PLAN
        self.folder.mkdir(parents=True, exist_ok=True)
        if file.exists() and json.loads(file.read_text()) != plan:
            raise ConfigError("--folder", self.folder, "it holds an ablation of something else; give another folder")
        file.write_text(json.dumps(plan, indent=1))

    def _run_one(self, home: Path, arrangement: Arrangement) -> dict[str, Any]:
        home.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if name != STORE_VARIABLE}
        environment[HOME_VARIABLE] = str(home)
        command = [sys.executable, "-m", "orchestrator.cli", "run", *arrangement.overrides]
        began = time.perf_counter()
        with (home / _LOG).open("ab") as log:
            code = subprocess.run(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False
            ).returncode
        if code != 0:
            raise ConfigError(
                "ablation", arrangement.name, f"its run ended with exit code {code}; see {home / _LOG}"
            )  # fmt: skip
        return {"wall_s": time.perf_counter() - began, **measured(home)}


def measured(home: Path) -> dict[str, Any]:
    """What the last study in a home held, gave and found."""
    at = Home(home)
    with closing(DatabaseStore(f"sqlite:///{at.store_path}")) as store:
        document = DirectOperations(store, at, "ablation").report("")
    throughput = document["throughput"]
    best = [entry["best_trial"] for entry in document["verdict"]["algorithms"].values()]
    winner = max(best, key=lambda trial: trial["dev_accuracy"] or 0.0, default=None)
    if winner is not None:
        said = [set(trial["overrides"]) for trial in document["trials"]]
        in_common = set.intersection(*said) if len(said) > 1 else set()
        winner = winner | {"overrides": [text for text in winner["overrides"] if text not in in_common]}
    return {
        "study_id": document["study"]["id"],
        "study_s": document["study"]["seconds"],
        "device_kind": document["study"]["device_kind"],
        "device_s": throughput["gpu_hours_held"] * 3600.0,
        "experiments_per_gpu_hour": throughput["experiments_per_gpu_hour"],
        "completed_equivalent_per_gpu_hour": throughput["completed_equivalent_per_gpu_hour"],
        "decided": throughput["experiments_decided"],
        "winner": winner,
    }


def _in_words(result: Mapping[str, Any]) -> str:
    return (
        f"{result['decided']:.0f} decided in {result['wall_s']:.0f} s, {result['device_s']:.1f} device-seconds: "
        f"{result['experiments_per_gpu_hour']:.0f} experiments per GPU-hour"
    )
