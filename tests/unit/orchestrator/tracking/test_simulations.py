"""Simulated runs as MLflow has them."""

from pathlib import Path

import pytest

from orchestrator.tracking.simulations import EXPERIMENT, SimulatedRun, SimulatedRuns, log_simulation

RUNS = [
    SimulatedRun(
        name=f"best_fit seed={seed}",
        params={"packing": {"name": "best_fit"}, "seed": seed},
        metrics={"makespan_s": 10.0 + seed},
    )
    for seed in range(2)
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # importing mlflow imports third parties
def test_each_simulated_run_is_a_child_of_its_command_with_params_metrics_and_the_files(tmp_path: Path) -> None:
    page = tmp_path / "simulation.html"
    page.write_text("<html></html>")
    simulation = SimulatedRuns(name="small", params={"command": "orchestrator simulate"}, runs=RUNS, artifacts=[page])
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    experiment_id = log_simulation(simulation, uri=uri, artifact_root=tmp_path / "artifacts")
    assert log_simulation(simulation, uri=uri, artifact_root=tmp_path / "artifacts") == experiment_id

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    assert client.get_experiment(experiment_id).name == EXPERIMENT
    runs = client.search_runs([experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert (len(parents), len(children), len(runs)) == (2, 2, 6)
    assert {run.data.metrics["makespan_s"] for run in children} == {10.0, 11.0}
    assert {run.data.params["packing.name"] for run in children} == {"best_fit"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert [file.path for file in client.list_artifacts(parents[0].info.run_id)] == ["simulation.html"]
