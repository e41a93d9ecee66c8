"""The console command as a user meets it: refusals, dry runs, and what `--help` costs. Nothing here takes a device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.control.outlook import NOBODY_SERVES


def orchestrator(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.cli", *arguments]
    environment = {**os.environ, "ORCHESTRATOR_HOME": str(home), "COLUMNS": "160"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["study=nope"], "error: study=nope: there is: efficiency, peers, qwen_gsm8k, r1_recipes, rl_vs_sft, single"),
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


@pytest.mark.parametrize("command", ["report", "resume", "studies", "status", "watch", "explain x", "pause x"])
def test_asking_for_a_study_where_none_was_run_is_refused(command: str, tmp_path: Path) -> None:
    done = orchestrator(*command.split(), home=tmp_path)
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


def test_a_study_is_submitted_and_asked_about_while_no_service_runs(tmp_path: Path) -> None:
    done = orchestrator("submit", "study=rl_vs_sft", "seed=0", "study.priority=7", home=tmp_path)
    assert done.returncode == 0, done.stderr
    (study_id,) = done.stdout.split()
    assert "4 trials queued" in done.stderr
    status = orchestrator("status", "--format", "json", home=tmp_path)
    document = json.loads(status.stdout)
    assert [study["priority"] for study in document["studies"]] == [7]
    assert {trial["why"] for trial in document["trials"]} == {NOBODY_SERVES}
    explained = orchestrator("explain", f"{study_id}-0002", home=tmp_path)
    assert f"{study_id}-0002 is trial 2 of study rl_vs_sft" in explained.stdout
    paused = orchestrator("pause", f"{study_id}-0002", home=tmp_path)
    assert (paused.returncode, "it is queued and takes effect once" in paused.stdout) == (0, True)
    assert "queued (no service runs)" in orchestrator("studies", home=tmp_path).stdout
    assert json.loads(orchestrator("report", "--format", "json", home=tmp_path).stdout)["study"]["id"] == study_id
    assert orchestrator("logs", f"{study_id}-0002", home=tmp_path).stdout == ""
    unknown = orchestrator("cancel", "nobody", home=tmp_path)
    assert (unknown.returncode, unknown.stderr.startswith("error: study=nobody: no such study")) == (2, True)


def test_a_service_refuses_what_belongs_to_a_study(tmp_path: Path) -> None:
    done = orchestrator("serve", "optimizer.lr=1e-3", home=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: optimizer.lr=1e-3: serve takes the service's own groups")


def test_a_token_is_shown_once_and_listed_without_itself(tmp_path: Path) -> None:
    made = orchestrator("token", "create", "anna", "--tenant", "reasoning", home=tmp_path)
    (token,) = made.stdout.split()
    assert made.returncode == 0
    assert orchestrator("token", "revoke", "anna", home=tmp_path).stdout == "anna is revoked\n"
    listed = orchestrator("token", "list", home=tmp_path).stdout
    assert listed.startswith("anna: researcher of tenant reasoning, made ")
    assert ", revoked " in listed
    assert token not in listed
    assert orchestrator("token", "revoke", "nobody", home=tmp_path).returncode == 2


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
