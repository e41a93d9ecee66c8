"""One system, once: `python -m tests.bench.peers.run SYSTEM FOLDER` writes FOLDER/result.json.

What a system needs is imported once it is chosen.
"""

import json
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from tests.bench.peers.accounting import Experiment, Hold, as_data

System = Callable[[Path], tuple[list[Experiment], list[Hold]]]


def _shell_loop(folder: Path) -> tuple[list[Experiment], list[Hold]]:
    return import_module("tests.bench.peers.shell_loop").run(folder)


def _hydra_ray(folder: Path) -> tuple[list[Experiment], list[Hold]]:
    return import_module("tests.bench.peers.hydra_ray").run(folder)


def _tune_asha(folder: Path) -> tuple[list[Experiment], list[Hold]]:
    return import_module("tests.bench.peers.tune_asha").run(folder, warm=False)


def _tune_asha_warm(folder: Path) -> tuple[list[Experiment], list[Hold]]:
    return import_module("tests.bench.peers.tune_asha").run(folder, warm=True)


def _ours_packing(folder: Path) -> tuple[list[Experiment], list[Hold]]:
    ours = import_module("tests.bench.peers.ours")
    return ours.run(folder, ours.PACKING, share_stages=False)


def _ours(folder: Path) -> tuple[list[Experiment], list[Hold]]:
    ours = import_module("tests.bench.peers.ours")
    return ours.run(folder, ours.EVERYTHING, share_stages=True)


SYSTEMS: Mapping[str, tuple[System, str]] = {
    "shell_loop": (_shell_loop, "one process per variant and device, as a shell loop or a Slurm array; own warm-ups"),
    "hydra_ray": (_hydra_ray, "Hydra's Ray launcher, one core a job; own warm-ups"),
    "tune_asha": (_tune_asha, "Ray Tune, ASHA, half a core a trial, reuse_actors; own warm-ups"),
    "tune_asha_warm": (_tune_asha_warm, "the same behind a warm-up that was trained by hand, which counts too"),
    "ours_packing": (_ours_packing, "this project with packing only: no fusion, no stopping, own warm-ups"),
    "ours": (_ours, "this project with everything: fusion, stopping, one shared warm-up"),
}


if __name__ == "__main__":
    system, _ = SYSTEMS[sys.argv[1]]
    chosen_folder = Path(sys.argv[2])
    (chosen_folder / "result.json").write_text(json.dumps(as_data(*system(chosen_folder))))
