"""One SFT and one GRPO trial on a CUDA device, packed as fractions of it. Run by `make test-gpu`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

STUDY = [
    "study=rl_vs_sft",
    "optimizer.lr=1e-3",
    "seed=0",
    "recipe.stages.warmup.algorithm.max_steps=50",
    "algorithm.max_steps=30",
    "evaluation.every_steps=15",
    "cluster.share_per_trial=0.5",
]


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.cli", *arguments]
    environment = {**os.environ, "ORCHESTRATOR_HOME": str(home)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)


@pytest.mark.parametrize("precision", ["deepspeed=zero0", "deepspeed=bf16"])
def test_sft_and_grpo_train_on_one_gpu(precision: str, tmp_path: Path) -> None:
    done = run("run", *STUDY, precision, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(run("report", "--format", "json", home=tmp_path).stdout)
    assert document["study"]["device_kind"] == "cuda"
    assert {trial["algorithm"]: trial["state"] for trial in document["trials"]} == {
        "sft": "completed",
        "grpo": "completed",
    }


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_gang_of_two_gpus_trains_over_nccl(tmp_path: Path) -> None:
    gang = [argument for argument in STUDY if not argument.startswith("cluster.")]
    done = run("run", *gang, "cluster.devices_per_trial=2", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
