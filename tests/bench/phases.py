"""Two GRPO trials on one core: one after the other, side by side, and in antiphase.

    python -m tests.bench.phases --repeats 6

Repeats are interleaved, since other work on the machine comes and goes; the least disturbed one counts. A core that
stands in for a GPU has one thing to give, so nothing is to be gained here: what is measured is what taking turns costs.
On a GPU it hasn't been measured.
"""

import argparse
import resource
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from tests.integration.live_loop import LiveLoop, stage_of
from tests.unit.experiments.stage_runs import coin_flips, stage_data

STEPS = 500
ALGORITHM = {"name": "grpo", "max_steps": STEPS, "prompts_per_step": 16, "group_size": 8}
ARRANGEMENTS = {"one after the other": (1.0, False), "side by side": (0.5, False), "in antiphase": (0.5, True)}


@dataclass(frozen=True, slots=True)
class Run:
    """From the first start to the last end of both trials [s], the part of it that each waited for its turns, and the
    CPU time of the node's processes, with what they import [s]."""

    elapsed_s: float
    waited: float
    cpu_s: float


def cpu_of_children_s() -> float:
    """Of those that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(share: float, antiphase: bool) -> Run:
    """Both trials, once."""
    before_s = cpu_of_children_s()
    with tempfile.TemporaryDirectory() as folder:
        live = LiveLoop(Path(folder) / "home", antiphase=antiphase, preload=["experiments.preload"])
        try:
            problems = coin_flips(Path(folder))
            algorithm = ALGORITHM | {"phases": ["rollout", "learn"]}
            configs = [stage_data(problems, algorithm, seed=seed) for seed in range(2)]
            for config in configs:
                config["evaluation"] = {"every_steps": STEPS, "timed_answers": 2}
                config["model"] = {"d_model": 64, "layers": 2, "heads": 4, "kv_heads": 4, "d_ff": 176}
            stages = [
                replace(stage_of("experiments.stages.grpo:run", f"seed-{seed}", STEPS), config=config)
                for seed, config in enumerate(configs)
            ]
            cluster = {"devices_per_trial": 1, "share_per_trial": share, "memory_per_trial_gib": 0.5}
            live.submit("study", stages, cluster)
            live.until(lambda: live.loop.finished("study"))
            lines = live.store.allocations("study")
            waits = [trial.metrics.get("phase_wait_s", 0.0) for trial in live.store.trials("study")]
        finally:
            live.close()
    elapsed_s = max(line.closed_at or 0.0 for line in lines) - min(line.opened_at for line in lines)
    return Run(elapsed_s, statistics.mean(waits) / elapsed_s, cpu_of_children_s() - before_s)


def main() -> None:
    """Prints a line for each arrangement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=4)
    repeats = parser.parse_args().repeats
    found: dict[str, list[Run]] = {name: [] for name in ARRANGEMENTS}
    for _ in range(repeats):
        for name, (share, antiphase) in ARRANGEMENTS.items():
            found[name].append(measure(share, antiphase))
    base_s = min(run.elapsed_s for run in found["one after the other"])
    for name, runs in found.items():
        elapsed = [run.elapsed_s for run in runs]
        print(
            f"{name:20} least {min(elapsed):.2f} s, median {statistics.median(elapsed):.2f}, most {max(elapsed):.2f}; "
            f"{base_s / min(elapsed):.2f} times the throughput by the least; CPU {min(r.cpu_s for r in runs):.1f} s; "
            f"{statistics.mean(run.waited for run in runs):.0%} of the time waiting for turns"
        )


if __name__ == "__main__":
    main()
