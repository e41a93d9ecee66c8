"""Simulated runs in MLflow: one experiment for all of them, a parent run per command, a child run per simulated run."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.tracking.mlflow import MlflowTracker
from orchestrator.tracking.mlflow_client import MAX_PARAMS_PER_BATCH, chunks, metric_values, param_of, params_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT: Final = "simulations"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRun:
    """What one simulated run is told apart by, and what came of it."""

    name: str
    params: Mapping[str, object]
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRuns:
    """The runs of one command, with the files that it wrote."""

    name: str
    params: Mapping[str, object]
    runs: Sequence[SimulatedRun]
    artifacts: Sequence[Path] = field(default=())


def log_simulation(simulation: SimulatedRuns, *, uri: str, artifact_root: Path) -> str:
    """Write it to MLflow at `uri`, its files below `artifact_root` where no server keeps them. The experiment's id.

    Slow to import: mlflow, 2 s. Raises what MLflow raises.
    """
    client = MlflowTracker(uri, artifact_root).client
    found = client.get_experiment_by_name(EXPERIMENT)
    location = (artifact_root / EXPERIMENT).absolute().as_uri() if uri.startswith("sqlite:") else None
    experiment_id = found.experiment_id if found else client.create_experiment(EXPERIMENT, artifact_location=location)
    parent_id = _log(client, experiment_id, simulation.name, simulation.params, {}, {})
    for run in simulation.runs:
        _log(client, experiment_id, run.name, run.params, run.metrics, {"mlflow.parentRunId": parent_id})
    for path in simulation.artifacts:
        client.log_artifact(parent_id, str(path))
    client.set_terminated(parent_id)
    return str(experiment_id)


def _log(
    client: "MlflowClient",
    experiment_id: str,
    name: str,
    params: Mapping[str, object],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
) -> str:
    """Make a run, ended if it has metrics. Its id."""
    at_ms = int(1000 * time.time())
    run_id: str = client.create_run(experiment_id, run_name=name, start_time=at_ms, tags=dict(tags)).info.run_id
    values = [param_of(key, value) for key, value in params_of(params).items()]
    for chunk in chunks(values, MAX_PARAMS_PER_BATCH):
        client.log_batch(run_id, params=chunk)
    if metrics:
        client.log_batch(run_id, metrics=metric_values(metrics, 0, at_ms))
        client.set_terminated(run_id)
    return run_id
