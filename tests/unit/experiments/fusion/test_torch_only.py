"""Fusion runs on a machine that has torch and nothing else of the stack, and never waits for its device in between."""

import subprocess
import sys

import pytest
import torch

from orchestrator.schema.training import ModelConfig
from tests.bench.fusion_gpu import WORKLOADS, Fused

CHECK = """
import sys
from importlib.metadata import packages_distributions

class NothingElse:
    absent = set(sys.argv[1].split(","))
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.absent:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NothingElse())
import tests.bench.fusion_gpu
import experiments.fusion.bundle, experiments.fusion.checkpoint
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded & NothingElse.absent))
"""
STACK = "deepspeed,ray,mlflow,hydra,omegaconf,optuna,transformers,trl,peft,reasoning_gym,safetensors,sqlalchemy,psutil,\
filelock,rich,typer,plotly,fastapi,requests,pydantic"


def test_fusion_and_its_benchmark_need_torch_only():
    run = subprocess.run([sys.executable, "-c", CHECK, STACK], capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


DATALESS = torch.device("meta")
"""A device whose tensors have no data: what would need a value on the host fails there."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_fused_step_never_waits_for_its_device(workload, dtype):
    """Which is what a CUDA graph demands."""
    fused = Fused(ModelConfig(d_model=16, layers=1, heads=2, kv_heads=1, d_ff=32), 3, DATALESS, dtype)
    step = WORKLOADS[workload](fused, DATALESS)
    step()
    assert fused.model.weights.device == DATALESS


def test_a_host_that_waits_would_be_noticed():
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        bool(torch.zeros(2, device=DATALESS).sum() > 0.0)
