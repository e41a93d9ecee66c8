"""Per-trial overhead, this project against Ray Tune, on the same payload in the same run.

    python -m tests.bench.overhead [--trials 24] [--repeats 3]

A trial's overhead is the time from when it could have begun (it was queued and its slot was free, that is, the trial
before it in that slot had ended) to the end of its first optimizer step, minus that step. The first trial of each slot
is left out: it pays for the start of the system, which is reported by itself as `start_s` (process start to the first
trial's first step). Every system runs each repeat in a fresh process, in turn, so that a drift of the machine hits all.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parent / "records" / "overhead.json"
SYSTEMS = {
    "orchestrator": "this project: forked workers, one device a trial",
    "tune_tuned": "Ray Tune, reuse_actors=True, fractional CPUs (0.5 a trial, so 4 at a time on 2 cores)",
    "tune_reuse": "Ray Tune, reuse_actors=True, one CPU a trial",
    "tune_plain": "Ray Tune function trials, one CPU a trial",
}

Row = dict[str, float]


def slot_overheads(rows: Sequence[Row], queued_at: float) -> list[float]:
    """Overheads of all trials but the first of each slot [s]. `slot` in a row names the device or process it ran in."""
    overheads = []
    free_at: dict[float, float] = {}
    for row in sorted(rows, key=lambda row: row["step_began_at"]):
        slot = row["slot"]
        if slot in free_at:
            overheads.append(row["step_began_at"] - max(free_at[slot], queued_at))
        free_at[slot] = row["ended_at"]
    return overheads


def slots_by_time(rows: Sequence[Row], slots: int) -> list[Row]:
    """Give each trial the slot that has been free the longest when it begins: Tune does not say which one it had."""
    free_at = [0.0] * slots
    out = []
    for row in sorted(rows, key=lambda row: row["step_began_at"]):
        slot = min(range(slots), key=lambda s: free_at[s])
        free_at[slot] = row["ended_at"]
        out.append({**row, "slot": float(slot)})
    return out


def run_orchestrator(trials: int) -> tuple[list[Row], float]:
    """Rows and when the trials were queued."""
    from orchestrator.clock import SystemClock
    from orchestrator.control.direct import DirectOperations
    from orchestrator.home import Home
    from orchestrator.loop import SchedulingLoop
    from orchestrator.service.reports import finish_study
    from orchestrator.service.rooms import build_cluster, build_policies
    from orchestrator.store.database import DatabaseStore
    from orchestrator.submission import Submission
    from orchestrator.sweep import compose_study

    entrypoint = "algorithm.entrypoint='tests.bench.payload:first_step'"
    overrides = ["recipe=from_scratch", "algorithm=sft", entrypoint, f"seed=range(0,{trials})"]
    composed = compose_study(overrides)
    submission = Submission(
        name="bench",
        config=composed.config,
        overrides=tuple(overrides),
        sweep=composed.sweep,
        variants=composed.variants,
    )
    home = Home(Path(tempfile.mkdtemp(prefix="bench-home-")))
    home.prepare()
    preload = ["experiments.preload", "tests.bench.payload"]
    config = submission.config["cluster"] | {"preload": preload, "python_path": [str(Path.cwd())]}
    cluster = build_cluster(config, home, term=1)
    cluster.start()
    store = DatabaseStore(home.store_url)
    loop = SchedulingLoop(
        cluster=cluster,
        store=store,
        clock=SystemClock(),
        policies=build_policies(submission.config),
        max_attempts=1,
        finish=partial(finish_study, home),
    )
    loop.wait_for_devices(60.0)
    queued_at = time.time()
    study_id = DirectOperations(store, home, author="bench").submit_prepared(submission).study_id
    while not loop.finished(study_id):
        loop.cycle(0.25)
    slots: dict[str, float] = {}
    devices = {
        a.trial_ids[0]: slots.setdefault(a.device_ids[0], float(len(slots))) for a in loop.state.allocations(study_id)
    }
    finished = loop.state.study_trials(study_id)
    cluster.close()
    store.close()
    shutil.rmtree(home.root)
    broken = [trial.error for trial in finished if not trial.state.decided]
    if broken:
        raise RuntimeError(broken[0])
    return [{**trial.metrics, "slot": devices[trial.trial_id]} for trial in finished], queued_at


def tune_trial(config: dict[str, Any]) -> None:
    """The same payload as a Tune function trainable."""
    os.chdir(config["root"])
    sys.path.insert(0, config["root"])
    from ray import tune

    from orchestrator.schema import Assignment, DeviceKind, Stage
    from tests.bench.payload import SilentChannel, first_step

    stage = Stage(name="main", key="", parent_key="", entrypoint="", config=config["stage"], budget_steps=1)
    folder = tempfile.mkdtemp(prefix="bench-tune-")
    assignment = Assignment(
        bundle_id="",
        stage=stage,
        output_dir=folder,
        parent_dir="",
        checkpoint_dir=folder,
        cache_dir=folder,
        device_kind=DeviceKind.CPU,
        device_indexes=(0,),
        share=1.0,
        threads=1,
        memory_bytes=0,
    )
    outcome = first_step(assignment, SilentChannel())
    shutil.rmtree(folder)
    tune.report({**outcome.metrics, "ended_at": time.time()})


def run_tune(trials: int, *, reuse: bool, cpus: float) -> tuple[list[Row], float]:
    """Rows and when the trials were queued."""
    import ray
    from ray import tune

    from orchestrator.sweep import compose_study

    composed = compose_study(["recipe=from_scratch", "algorithm=sft", f"seed=range(0,{trials})"])
    cores = len(os.sched_getaffinity(0))
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level="error")
    stages = [dict(variant.stages[0].config) for variant in composed.variants]
    space = {"root": str(Path.cwd()), "stage": tune.grid_search(stages)}
    folder = tempfile.mkdtemp(prefix="bench-tune-results-")
    tuner = tune.Tuner(
        tune.with_resources(tune_trial, {"cpu": cpus}),
        param_space=space,
        tune_config=tune.TuneConfig(reuse_actors=reuse),
        run_config=tune.RunConfig(storage_path=folder, verbose=0),
    )
    queued_at = time.time()
    results = tuner.fit()
    ray.shutdown()
    shutil.rmtree(folder)
    if results.num_errors:
        raise RuntimeError(str(results.errors[0]))
    names = ("step_began_at", "step_ended_at", "ended_at")
    rows = [{name: result.metrics[name] for name in names} for result in results]
    return slots_by_time(rows, slots=int(cores / cpus)), queued_at


def run_one(system: str, trials: int) -> dict[str, Any]:
    """One system, once, in this process."""
    began_at = time.time()
    if system == "orchestrator":
        rows, queued_at = run_orchestrator(trials)
    elif system == "tune_tuned":
        rows, queued_at = run_tune(trials, reuse=True, cpus=0.5)
    else:
        rows, queued_at = run_tune(trials, reuse=system == "tune_reuse", cpus=1.0)
    last = max(row["ended_at"] for row in rows)
    first = min(row["step_ended_at"] for row in rows)
    return {
        "system": system,
        "overheads_s": slot_overheads(rows, queued_at),
        "step_s": statistics.median(row["step_ended_at"] - row["step_began_at"] for row in rows),
        "start_s": first - began_at,
        "queued_to_last_end_s": last - queued_at,
        "wall_per_trial_s": (last - first) / (trials - 1),
    }


def main() -> int:
    """Print a table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=sorted(SYSTEMS), help="run one system once, in this process, and print JSON")
    arguments = parser.parse_args()
    if arguments.only:
        print("RESULT " + json.dumps(run_one(arguments.only, arguments.trials)))
        return 0
    runs: list[dict[str, Any]] = []
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # every system on the same cores
    for repeat in range(arguments.repeats):
        for system in SYSTEMS:
            command = [
                sys.executable,
                "-m",
                "tests.bench.overhead",
                "--only",
                system,
                "--trials",
                str(arguments.trials),
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
            line = next((x for x in done.stdout.splitlines() if x.startswith("RESULT ")), None)
            if line is None:
                print(done.stdout[-2000:], done.stderr[-4000:], file=sys.stderr)
                return 1
            run = {"repeat": repeat, **json.loads(line.removeprefix("RESULT "))}
            runs.append(run)
            print(
                f"repeat {repeat} {system:13} median overhead {statistics.median(run['overheads_s']):.3f} s", flush=True
            )
    summary = {system: summarise([r for r in runs if r["system"] == system]) for system in SYSTEMS}
    RECORD.parent.mkdir(exist_ok=True)
    from tests.bench.provenance import provenance  # what is measured starts from this module, and needs none of it

    made = provenance(arguments, "python -m tests.bench.overhead")
    RECORD.write_text(json.dumps({"summary": summary, "runs": runs, "systems": SYSTEMS, **made}, indent=1) + "\n")
    print_table(summary)
    return 0


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Over the repeats: median overhead of a trial and its range, and the medians of the other times [s]."""
    medians = [statistics.median(run["overheads_s"]) for run in runs]
    everything = sorted(x for run in runs for x in run["overheads_s"])
    return {
        "overhead_s": statistics.median(everything),
        "overhead_low_s": min(medians),
        "overhead_high_s": max(medians),
        "overhead_p95_s": everything[int(0.95 * (len(everything) - 1))],
        "wall_per_trial_s": statistics.median(run["wall_per_trial_s"] for run in runs),
        "step_s": statistics.median(run["step_s"] for run in runs),
        "start_s": statistics.median(run["start_s"] for run in runs),
    }


def print_table(summary: dict[str, dict[str, float]]) -> None:
    """One row per system, with its factor over this project."""
    ours = summary["orchestrator"]["overhead_s"]
    print(f"\n{'system':14}{'overhead (range of medians)':>30}{'p95':>9}{'wall/trial':>12}{'start':>9}{'factor':>9}")
    for system, row in summary.items():
        spread = f"{row['overhead_s']:.3f} s ({row['overhead_low_s']:.3f} to {row['overhead_high_s']:.3f})"
        print(
            f"{system:14}{spread:>30}{row['overhead_p95_s']:>7.3f} s{row['wall_per_trial_s']:>10.3f} s"
            f"{row['start_s']:>7.1f} s{row['overhead_s'] / ours:>8.1f}x"
        )


if __name__ == "__main__":
    sys.exit(main())
