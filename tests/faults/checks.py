"""What must hold after a study that was killed all over. Each check raises AssertionError or returns its figure."""

import json
from itertools import pairwise
from pathlib import Path

from mlflow import MlflowClient

from cluster.outputs import Artifacts
from orchestrator.schema import Allocation, Study, Trial
from orchestrator.store.database import DatabaseStore
from tests.faults.payload import REPORT_EVERY, RESULT, chain


def every_trial_is_decided(trials: list[Trial]) -> None:
    """Completed: none of them was stopped by anything but a kill."""
    states = {trial.trial_id: str(trial.state) for trial in trials if not trial.state.decided}
    assert not states, states


def no_output_is_lost_or_half_written(home: Path, trials: list[Trial]) -> None:
    """Every stage's output verifies, nothing else lies among the outputs, and each holds every step once."""
    artifacts = Artifacts(home / "artifacts")
    wanted = {stage.key: stage for trial in trials for stage in trial.variant.stages}
    for key, stage in wanted.items():
        assert artifacts.verified(key) is not None, f"the output of stage {stage.name} ({key})"
        result = json.loads((artifacts.stage(key) / RESULT).read_text())
        assert result["state"] == chain(int(stage.config["seed"]), stage.budget_steps), f"the steps of {key}"
    assert {path.name for path in (home / "artifacts" / "stages").iterdir()} == set(wanted)


def no_device_is_held_twice(ledger: list[Allocation]) -> None:
    """Lines of one whole device never overlap, and all are closed."""
    by_device: dict[str, list[tuple[float, float]]] = {}
    for line in ledger:
        assert line.closed_at is not None, line
        for device_id in line.device_ids:
            by_device.setdefault(device_id, []).append((line.opened_at, line.closed_at))
    for lines in by_device.values():
        lines.sort()
        for (_, earlier_end), (later_start, _) in pairwise(lines):
            assert earlier_end <= later_start + 1e-3, lines


def ledger_error(home: Path, ledger: list[Allocation]) -> float:
    """How far the ledger is from the wall time that processes lived, relative to all that was held.

    A line begins with its placement, before its process is there: that is part of the hold. It ends with the process,
    whose last sign of life is its pulse: what the ledger has after it, or misses before it, is error.
    """
    checkpoints = home / "artifacts" / "checkpoints"
    pulses = {path.name: path for path in checkpoints.glob("*/*/alive/*")}
    held = wrong = 0.0
    for line in ledger:
        assert line.closed_at is not None
        held += line.device_seconds(line.closed_at)
        pulse = pulses.get(line.bundle_id)
        ended_at = line.opened_at if pulse is None else max(line.opened_at, pulse.stat().st_mtime)
        wrong += len(line.device_ids) * line.share * abs(line.closed_at - ended_at)
    return wrong / held


def charged_is_held(trials: list[Trial], ledger: list[Allocation]) -> None:
    """What the trials were charged is what the ledger holds."""
    held = sum(line.device_seconds(0.0) for line in ledger)
    charged = sum(trial.gpu_seconds for trial in trials)
    assert abs(held - charged) <= 1e-6 * max(1.0, held), (held, charged)


def mlflow_has_each_trial_once(home: Path, study: Study, trials: list[Trial]) -> None:
    """One run per trial, ended, with every reported step of its last stage once and in order."""
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(f"{study.name}/{study.study_id}")
    runs = [r for r in client.search_runs([experiment.experiment_id]) if r.data.tags["orchestrator.kind"] == "trial"]
    assert sorted(run.data.tags["trial_id"] for run in runs) == sorted(trial.trial_id for trial in trials)
    steps = {trial.trial_id: trial.variant.stages[-1].budget_steps for trial in trials}
    for run in runs:
        assert run.info.status == "FINISHED", run.info
        points = client.get_metric_history(run.info.run_id, "train/loss")
        wanted = list(range(REPORT_EVERY, steps[run.data.tags["trial_id"]] + 1, REPORT_EVERY))
        assert [point.step for point in points] == wanted, run.data.tags["trial_id"]


def all_of_them(home: Path, study: Study, trials: list[Trial]) -> float:
    """Every check; the ledger's error."""
    store = DatabaseStore(f"sqlite:///{home / 'store.db'}")
    ledger = store.allocations(study.study_id)
    store.close()
    every_trial_is_decided(trials)
    no_output_is_lost_or_half_written(home, trials)
    no_device_is_held_twice(ledger)
    charged_is_held(trials, ledger)
    mlflow_has_each_trial_once(home, study, trials)
    return ledger_error(home, ledger)
