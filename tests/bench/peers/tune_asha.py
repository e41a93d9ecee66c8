"""Ray Tune with ASHA, half a core a trial and reused actors; `warm` after a warm-up that was trained by hand.

Without it every trial trains its own warm-up, of which ASHA hears nothing: it is the same for all. ASHA judges by dev
accuracy at 10, 30 and 90 % of the variant's own stage. Trials end by themselves at the full budget (`max_t` is above
it), so that a finished one has an output like everybody's.
"""

import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench.peers.accounting import Experiment, Hold, holds_of_processes
from tests.bench.peers.payload import Course, logged, train, train_and_log
from tests.bench.peers.shell_loop import run_pinned
from tests.bench.peers.study import numbers, stages_of

CPUS_PER_TRIAL = 0.5
GRACE_PERCENT, REDUCTION_FACTOR = 10, 3


def trial(config: dict[str, Any]) -> None:
    """A Tune function trainable. Tune ends it inside `tune.report` when ASHA says so."""
    from ray import tune

    def report(progress: float, accuracy: float) -> None:
        tune.report({"percent": round(100 * progress), "dev_accuracy": accuracy})

    train_and_log(Path(config["folder"]), config["number"], report, config["parent"])


def run(folder: Path, *, warm: bool) -> tuple[list[Experiment], list[Hold]]:
    """Every variant as a trial. Raises RuntimeError if one fails."""
    holds: list[Hold] = []
    parent = ""
    if warm:
        parent = str(folder / "work" / "warmup" / stages_of(folder, 0)[-2].name / "output")
        command = [sys.executable, "-m", "tests.bench.peers.tune_asha", str(folder)]
        holds += run_pinned([command], sorted(os.sched_getaffinity(0))[:1])
    queued_at = time.time()
    stopped = _fit(folder, parent)
    experiments, work = logged(folder, stopped)
    holds += holds_of_processes(work, CPUS_PER_TRIAL, queued_at)
    return credit_first(experiments) if warm else experiments, holds


def credit_first(experiments: list[Experiment]) -> list[Experiment]:
    """The warm-up was trained once: it is the first variant's own work, and reused by the others."""
    return [replace(e, reused=0.0) if e.number == 0 else e for e in experiments]


def _fit(folder: Path, parent: str) -> frozenset[int]:
    """The numbers of the variants that ASHA stopped."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    cores = len(os.sched_getaffinity(0))
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level="error")
    asha = ASHAScheduler(time_attr="percent", max_t=101, grace_period=GRACE_PERCENT, reduction_factor=REDUCTION_FACTOR)
    results_folder = folder / "work" / "tune"
    results = tune.Tuner(
        tune.with_resources(trial, {"cpu": CPUS_PER_TRIAL}),
        param_space={
            "folder": str(folder),
            "number": tune.grid_search(list(numbers(folder))),
            "parent": parent,
        },
        tune_config=tune.TuneConfig(metric="dev_accuracy", mode="max", scheduler=asha, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(results_folder), verbose=0),
    ).fit()
    ray.shutdown()
    shutil.rmtree(results_folder)
    if results.num_errors:
        raise RuntimeError(str(results.errors[0]))
    return frozenset(result.config["number"] for result in results if result.metrics["percent"] < 100)


def train_warmup(folder: Path) -> None:
    """The stages before the last one, by hand."""
    stages = stages_of(folder, 0)
    train(Course(stages), folder / "work" / "warmup", folder / "cache", last=len(stages) - 1)


if __name__ == "__main__":
    train_warmup(Path(sys.argv[1]))
