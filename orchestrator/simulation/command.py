"""`orchestrator simulate`: run, report, and only then write files and tell MLflow."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.home import Home
from orchestrator.simulation.composing import ComposedRun
from orchestrator.simulation.files import new_folder, results_json, write_files
from orchestrator.simulation.pool import cores, run_all
from orchestrator.simulation.results import Result
from orchestrator.simulation.traces import forget_workloads, read_workload, workload_key

# Not measured, or no number.
_NO_METRICS = frozenset({"policy", "seed", "overrides", "fairness", "fairness_by_tenant"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What is wanted: the results as JSON and nothing else on standard output, or tables; `files` in `folder` (empty:
    a new one in the home), and the runs in MLflow (`track`). `command` is what was asked, for people."""

    as_json: bool
    track: bool
    files: bool
    folder: str
    command: str


def run_and_report(runs: Sequence[ComposedRun], output: Output, *, jobs: int, skip_bad_rows: bool) -> list[Result]:
    """Simulate every run and report on them. `jobs` 0 takes every core.

    Raises ConfigError and TraceError before anything runs where that can be told.
    """
    for run in {workload_key(run.config): run for run in reversed(runs)}.values():
        read_workload(run.config, skip_bad_rows=skip_bad_rows)
    workers = min(jobs or cores(), len(runs))
    if workers > 1:  # they read it themselves, and a long trace is not kept here beside theirs
        forget_workloads()
    results = _simulated(runs, jobs=workers, skip_bad_rows=skip_bad_rows)
    if output.as_json:
        sys.stdout.write(results_json(results) + "\n")
        sys.stdout.flush()
    else:
        from rich.console import Console

        from orchestrator.simulation.table import print_table

        print_table(results, Console(highlight=False))
    _keep(runs, results, output)
    return results


def _simulated(runs: Sequence[ComposedRun], *, jobs: int, skip_bad_rows: bool) -> list[Result]:
    finished = 0

    def done(run: ComposedRun, result: Result) -> None:
        nonlocal finished
        finished += 1
        swept = " ".join(f"{key}={value}" for key, value in run.swept.items()) or result.policy
        sys.stderr.write(f"[{finished}/{len(runs)}] {swept}: simulated in {result.wall_s:.1f} s\n")

    return run_all(runs, jobs=jobs, skip_bad_rows=skip_bad_rows, done=done)


def _keep(runs: Sequence[ComposedRun], results: Sequence[Result], output: Output) -> None:
    """The files, and the runs in MLflow."""
    home = Home.from_environment()
    name = runs[0].config["trace"]["name"]
    stamp = datetime.fromtimestamp(time.time(), UTC).strftime("%Y%m%d-%H%M%S")
    paths: tuple[Path, ...] = ()
    if output.files:
        # Two may be started in one second.
        folder = Path(output.folder) if output.folder else new_folder(home.root / "simulations", f"{name}-{stamp}")
        paths = write_files(folder, f"{name} simulated", output.command, results)
        sys.stderr.write(f"occupancy over time, and the tables as a page: {paths[-1]}\n")
    if output.track:
        home.prepare()
        _track(runs, results, f"{name}-{stamp}", output.command, paths, home)


def _track(
    runs: Sequence[ComposedRun],
    results: Sequence[Result],
    name: str,
    command: str,
    paths: tuple[Path, ...],
    home: Home,
) -> None:
    from orchestrator.tracking.simulations import EXPERIMENT, SimulatedRun, SimulatedRuns, log_simulation

    logged = [
        SimulatedRun(
            name=" ".join([result.policy, *(f"{k}={v}" for k, v in run.swept.items() if k != "packing")]),
            params=run.config,
            metrics=metrics_of(result),
        )
        for run, result in zip(runs, results, strict=True)
    ]
    simulation = SimulatedRuns(name=name, params={"command": command}, runs=logged, artifacts=paths)
    log_simulation(simulation, uri=home.mlflow_uri, artifact_root=home.artifacts / "mlflow")
    sys.stderr.write(f"the runs in MLflow: experiment {EXPERIMENT} of {home.mlflow_uri}\n")


def metrics_of(result: Result) -> dict[str, float]:
    """Its numbers, for MLflow."""
    plain: dict[str, Any] = result.to_json()
    numbers = {key: float(value) for key, value in plain.items() if key not in _NO_METRICS and value is not None}
    if result.fairness is not None:
        numbers |= {"finish_time_ratio_mean": result.fairness.mean, "finish_time_ratio_max": result.fairness.max}
    return numbers
