"""The console command as a user meets it: refusals, dry runs, and what `--help` costs. Nothing here takes a device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def orchestrator(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.cli", *arguments]
    environment = {**os.environ, "ORCHESTRATOR_HOME": str(home), "COLUMNS": "160"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["study=nope"], "error: study=nope: there is: rl_vs_sft, single"),
        (["optimizer.lr=-1"], "error: optimizer.lr=-1.0: use a positive learning rate"),
        (["cluster.devices=9999"], "error: cluster.devices=9999: there are"),
        (["cluster.devices_per_trial=32"], "error: cluster.devices_per_trial=32: "),
        (["tracking.uri=http://127.0.0.1:9"], "error: tracking.uri='http://127.0.0.1:9': can't connect"),
        (["task.split.test=100000"], "error: task=addition: "),
    ],
)
def test_what_cannot_run_is_refused_in_a_line_with_exit_code_2(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    done = orchestrator("run", *overrides, home=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert len(done.stderr.strip().splitlines()) <= 2
    assert "Traceback" not in done.stderr + done.stdout


def test_a_broken_line_of_a_data_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"prompt": "1+1=", "answer": "2"}\n{"prompt": \n')
    done = orchestrator("run", "task=jsonl", f"task.path={path}", home=tmp_path)
    assert done.returncode == 2
    assert f"{path}:2" in done.stderr


def test_a_home_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = orchestrator("run", home=tmp_path / "file")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ORCHESTRATOR_HOME=")


@pytest.mark.parametrize("command", ["report", "resume", "studies"])
def test_asking_for_a_study_where_none_was_run_is_refused(command: str, tmp_path: Path) -> None:
    done = orchestrator(command, home=tmp_path)
    assert done.returncode == 2
    assert "no study was run here" in done.stderr


def test_cfg_job_prints_the_composed_config(tmp_path: Path) -> None:
    done = orchestrator("run", "study=rl_vs_sft", "optimizer.lr=1e-4", "--cfg", "job", home=tmp_path)
    assert done.returncode == 0
    assert "lr: 0.0001" in done.stdout
    assert "name: rl_vs_sft" in done.stdout


def test_a_dry_run_shows_the_stage_runs_and_starts_nothing(tmp_path: Path) -> None:
    done = orchestrator("run", "study=rl_vs_sft", "seed=0", "--dry-run", home=tmp_path)
    assert done.returncode == 0
    assert "4 variants, 5 stage runs" in done.stdout
    assert not (tmp_path / "store.db").exists()


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['orchestrator', '--help']\n"
        "import atexit; heavy = {'torch', 'ray', 'mlflow', 'deepspeed', 'hydra', 'sqlalchemy', 'numpy'}\n"
        "atexit.register(lambda: print('HEAVY', sorted(heavy & set(sys.modules))))\n"
        "from orchestrator.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "HEAVY []" in done.stdout
    assert "Usage" in done.stdout
