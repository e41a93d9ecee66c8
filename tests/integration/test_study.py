"""A real, small study through every room: Ray, forked workers, DeepSpeed, SQLite, MLflow, the report."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own

SMALL = [
    "study=rl_vs_sft",
    "optimizer.lr=1e-3",
    "seed=0,1",
    "recipe.stages.warmup.algorithm.max_steps=20",
    "evaluation.every_steps=10",
    "evaluation.timed_answers=2",
    "task.size=1500",
    "task.split.supervised=100",
    "task.split.dev=50",
    "task.split.test=50",
    "study.name=small",
]
# Two algorithms with budgets of their own can't share one override, so each integration study has one.
SMALL_SFT = [*SMALL, "algorithm=sft", "algorithm.max_steps=20"]
SMALL_GRPO = [*SMALL, "algorithm=grpo", "algorithm.max_steps=4", "algorithm.prompts_per_step=4"]
FOREVER = [*SMALL, "algorithm=sft", "algorithm.max_steps=1000000"]


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    """A test that fails half-way must not keep the machine's devices from the next one."""
    yield
    while STARTED:
        STARTED.pop().kill()


def start(*arguments: str, home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "orchestrator.cli", *arguments]
    environment = {**os.environ, "ORCHESTRATOR_HOME": str(home), "COLUMNS": "160"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    STARTED.append(process)
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


def report(home: Path) -> dict:
    code, output = finish(start("report", "--format", "json", home=home))
    assert code == 0, output
    return json.loads(output)


def wait_until(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.2)


def running_trials(home: Path) -> int:
    code, output = finish(start("report", "--format", "json", home=home))
    if code == 2:  # no study yet
        return 0
    return [trial["state"] for trial in json.loads(output)["trials"]].count("running")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which one small SFT study was run to its end."""
    home = tmp_path_factory.mktemp("home")
    code, output = finish(start("run", *SMALL_SFT, home=home))
    assert code == 0, output
    return home


def test_every_trial_completes_and_the_warm_up_is_trained_once(home: Path) -> None:
    document = report(home)
    assert [trial["state"] for trial in document["trials"]] == ["completed", "completed"]
    assert document["throughput"]["stages_reused"] == 1
    assert len(list((home / "artifacts" / "stages").iterdir())) == 3


def test_throughput_is_decided_over_held(home: Path) -> None:
    numbers = report(home)["throughput"]
    assert numbers["experiments_per_gpu_hour"] == pytest.approx(2 / numbers["gpu_hours_held"])
    assert 0 < numbers["gpu_hours_busy"] <= numbers["gpu_hours_held"]


def test_what_the_trials_were_charged_is_what_the_ledger_held(home: Path) -> None:
    document = report(home)
    charged = sum(trial["gpu_seconds"] for trial in document["trials"])
    assert charged == pytest.approx(document["throughput"]["gpu_hours_held"] * 3600)


def test_mlflow_has_a_parent_run_with_a_child_per_trial(home: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiment = next(e for e in client.search_experiments() if e.name.startswith("small/"))
    runs = client.search_runs([experiment.experiment_id])
    studies = [run for run in runs if run.data.tags["orchestrator.kind"] == "study"]
    trials = [run for run in runs if run.data.tags["orchestrator.kind"] == "trial"]
    assert (len(studies), len(trials)) == (1, 2)
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {studies[0].info.run_id}
    for name in ("experiments_per_gpu_hour", "completed_equivalent_per_gpu_hour", "gpu_hours_held", "stages_reused"):
        assert name in studies[0].data.metrics
    for run in trials:
        assert {"accuracy", "gpu_seconds", "tokens_per_answer", "time_to_answer_p50_s"} <= set(run.data.metrics)
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "eval/accuracy")]
        assert steps == sorted(steps)
        assert steps[-1] == 20
    assert [f.path for f in client.list_artifacts(studies[0].info.run_id)]


def test_a_second_study_takes_the_warm_up_from_the_first_and_runs_its_own_trials(home: Path) -> None:
    code, output = finish(start("run", *SMALL_GRPO, home=home))
    assert code == 0, output
    document = report(home)
    assert document["throughput"]["stages_reused"] == 2
    assert {trial["algorithm"] for trial in document["trials"]} == {"grpo"}


@pytest.mark.slow
def test_a_gang_of_two_processes_completes(tmp_path: Path) -> None:
    code, output = finish(start("run", *SMALL_SFT, "cluster.devices_per_trial=2", home=tmp_path))
    assert code == 0, output


@pytest.mark.slow
def test_fractions_put_several_trials_on_one_device(tmp_path: Path) -> None:
    arguments = [*SMALL_SFT, "cluster.share_per_trial=0.5", "cluster.devices=1"]
    code, output = finish(start("run", *arguments, home=tmp_path))
    assert code == 0, output


@pytest.mark.slow
def test_a_trial_that_raises_fails_alone_with_exit_code_1(tmp_path: Path) -> None:
    # What `extra` holds is DeepSpeed's own business: it refuses a ZeRO stage that there isn't, in the trial that asks.
    extra = "+deepspeed.extra.zero_optimization.stage=0,9"
    code, output = finish(start("run", *SMALL_SFT, "seed=0", extra, home=tmp_path))
    assert code == 1, output
    states = {trial["state"] for trial in report(tmp_path)["trials"]}
    assert states == {"completed", "failed"}
    assert "#1 sft failed" in output
    assert "Input should be 0, 1, 2, 3" in output


@pytest.mark.slow
def test_ctrl_c_leaves_a_study_that_resumes(tmp_path: Path) -> None:
    process = start("run", *FOREVER, home=tmp_path)
    wait_until(lambda: running_trials(tmp_path) == 2)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130, output
    assert "orchestrator resume" in output
    document = report(tmp_path)
    assert {trial["state"] for trial in document["trials"]} == {"paused"}
    again = start("resume", home=tmp_path)
    wait_until(lambda: running_trials(tmp_path) == 2)
    again.send_signal(signal.SIGINT)
    assert finish(again)[0] == 130
    held = report(tmp_path)["throughput"]["gpu_hours_held"]
    assert held > document["throughput"]["gpu_hours_held"]


@pytest.mark.slow
def test_a_killed_run_resumes_to_its_end(tmp_path: Path) -> None:
    longer = [argument for argument in SMALL_SFT if "algorithm.max_steps=20" not in argument.split("recipe")[0]]
    process = start("run", *longer, "algorithm.max_steps=400", home=tmp_path)
    wait_until(lambda: running_trials(tmp_path) >= 1)
    process.kill()
    process.communicate(timeout=60)
    code, output = finish(start("resume", home=tmp_path))
    assert code == 0, output
    document = report(tmp_path)
    assert {trial["state"] for trial in document["trials"]} == {"completed"}
    charged = sum(trial["gpu_seconds"] for trial in document["trials"])
    assert charged == pytest.approx(document["throughput"]["gpu_hours_held"] * 3600)


@pytest.mark.slow
def test_a_second_run_at_once_waits_for_the_devices(tmp_path: Path) -> None:
    first, second = (start("run", *SMALL_SFT, home=tmp_path / name) for name in ("a", "b"))
    outcomes = [finish(first), finish(second)]
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    assert sum("another run holds this machine's devices" in output for _, output in outcomes) == 1
