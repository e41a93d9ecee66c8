"""The benchmark of adapters runs, and solo and fused do the same work in it."""

import json

import pytest
import torch

from experiments.fusion.lora.base import FrozenBase
from tests.bench.fusion_gpu import WORKLOADS
from tests.bench.fusion_lora import TARGETS, FusedLora, SoloLora, main, make_base

CPU = torch.device("cpu")


@pytest.mark.parametrize("workload", ["sft batch 8", "grpo 4 x 8"])
def test_solo_and_fused_do_the_same_work(workload):
    solo = SoloLora(make_base(16, 1, CPU, torch.float32), 2)
    fused = FusedLora(FrozenBase(make_base(16, 1, CPU, torch.float32), TARGETS), 2, 1)
    for trainee in (solo, fused):
        torch.manual_seed(0)
        step = WORKLOADS[workload](trainee, CPU)
        for _ in range(5):
            step()
    for name, weight in solo.model.adapter().weights.items():
        torch.testing.assert_close(fused.model.adapter(0).weights[name], weight, atol=1e-5, rtol=1e-3)


def test_it_writes_what_it_measured(tmp_path, capsys):
    path = tmp_path / "lora.json"
    small = ["--d-model", "16", "--layers", "1", "--rank", "2", "--repeats", "1"]
    main([*small, "--widths", "1,2", "--workloads", "sft batch 8", "--json", str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert [(row["variant"], row["width"]) for row in rows] == [("solo", 1), ("fused", 1), ("fused", 2)]
    assert "sft batch 8" in capsys.readouterr().out
