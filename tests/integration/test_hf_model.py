"""A Hugging Face model through the command line: from a folder on disk to a report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def orchestrate(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("orchestrator")), *arguments]
    env = {**os.environ, "ORCHESTRATOR_HOME": str(home)}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=280)


def study(hf_model: tuple[Path, Path], *overrides: str) -> list[str]:
    model, problems = hf_model
    sizes = {"supervised": 60, "dev": 16, "test": 16}
    return [
        "run",
        "model=hf",
        f"model.path={model}",
        "task=jsonl",
        f"task.path={problems}",
        *(f"task.split.{name}={size}" for name, size in sizes.items()),
        "algorithm=sft,grpo",
        "algorithm.max_steps=6",
        "evaluation.every_steps=3",
        "evaluation.timed_answers=2",
        *overrides,
    ]


def report_of(home: Path) -> dict:
    return json.loads(orchestrate(home, "report", "--format", "json").stdout)


@pytest.mark.slow
def test_both_algorithms_train_adapters_in_this_process(hf_model, tmp_path):
    run = orchestrate(tmp_path, *study(hf_model, "debug=in_process"))
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(list(tmp_path.glob("artifacts/**/adapter_model.safetensors"))) == 3  # a warm-up, and both after it


@pytest.mark.slow
def test_seeds_and_ranks_of_both_algorithms_train_as_stacks(hf_model, tmp_path):
    run = orchestrate(tmp_path, *study(hf_model, "recipe=from_scratch", "seed=0,1", "model.lora.rank=2,4"))
    assert run.returncode == 0, run.stdout + run.stderr
    trials = report_of(tmp_path)["trials"]
    assert [trial["state"] for trial in trials] == ["completed"] * 8
    assert len(list(tmp_path.glob("artifacts/**/adapter_model.safetensors"))) == 8
