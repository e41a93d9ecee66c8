"""Hydra's Ray launcher: one Ray task per variant, one core each.

Ray's worker processes are reused, so torch and DeepSpeed are imported once in each. A task trains a warm-up of its own
and then its stage. The variants are composed beforehand; the app's own config is two values.
"""

import os
import sys
import time
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from tests.bench.peers.accounting import Experiment, Hold, holds_of_processes
from tests.bench.peers.payload import logged, train_and_log
from tests.bench.peers.study import numbers

ConfigStore.instance().store(name="one_variant", node={"folder": "???", "number": "???"})


@hydra.main(version_base="1.3", config_path=None, config_name="one_variant")
def one_variant(config: DictConfig) -> None:
    """The app: a variant by its number."""
    train_and_log(Path(config.folder), int(config.number))


def run(folder: Path) -> tuple[list[Experiment], list[Hold]]:
    """Every variant as a job of one multirun."""
    cores = len(os.sched_getaffinity(0))
    sys.argv = [
        "one_variant",
        "--multirun",
        "hydra/launcher=ray",
        f"+hydra.launcher.ray.init.num_cpus={cores}",
        "+hydra.launcher.ray.init.include_dashboard=false",
        "+hydra.launcher.ray.init.log_to_driver=false",
        "+hydra.launcher.ray.remote.num_cpus=1",
        f"hydra.sweep.dir={folder}/work/multirun",
        f"folder={folder}",
        "number=" + ",".join(map(str, numbers(folder))),
    ]
    queued_at = time.time()
    one_variant()
    experiments, work = logged(folder)
    return experiments, holds_of_processes(work, share=1.0, queued_at=queued_at)
