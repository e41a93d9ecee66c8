"""The benchmark of fusion runs anywhere, and its arithmetic and its table are right."""

import json
from dataclasses import replace

import pytest
import torch

from orchestrator.schema.training import ModelConfig, PredictionConfig, PredictionKind
from tests.bench import fusion_gpu
from tests.bench.fusion_gpu import WORKLOADS, Fused, Row, Solo, main, measure, table

TINY = ModelConfig(d_model=16, layers=1, heads=2, kv_heads=1, d_ff=32)
CPU = torch.device("cpu")


@pytest.mark.parametrize("workload", [name for name in WORKLOADS if not name.startswith("decode")])
def test_a_step_trains_solo_and_fused(workload):
    solo, fused = Solo(TINY, CPU, torch.float32), Fused(TINY, 2, CPU, torch.float32)
    before = solo.decoder.embedding.weight.clone(), fused.model.weights.clone()
    for trainee in (solo, fused):
        WORKLOADS[workload](trainee, CPU)()
    assert not torch.equal(before[0], solo.decoder.embedding.weight)
    assert [torch.equal(a, b) for a, b in zip(before[1], fused.model.weights, strict=True)] == [False, False]


@pytest.mark.parametrize("modules", [0, 2])
@pytest.mark.parametrize("workload", ["sft batch 8", "grpo 4 x 8", "dpo 8 pairs"])
def test_solo_and_fused_do_the_same_work(workload, modules):
    kind = PredictionKind.multi_token if modules else PredictionKind.next_token
    config = replace(TINY, prediction=PredictionConfig(kind, modules))
    solo, fused = Solo(config, CPU, torch.float32), Fused(config, 1, CPU, torch.float32)
    for trainee in (solo, fused):
        torch.manual_seed(0)
        step = WORKLOADS[workload](trainee, CPU)
        for _ in range(5):
            step()
    state = fused.model.decoder(0).state_dict()
    for name, weight in solo.decoder.state_dict().items():
        torch.testing.assert_close(state[name], weight, atol=1e-6, rtol=1e-4)


def test_a_speedup_is_over_as_many_solo_steps_as_there_are_members(monkeypatch):
    times = iter([100.0] * 3 + [10.0, 12.0, 16.0] + [11.0, 13.0, 15.0])
    monkeypatch.setattr(fusion_gpu, "timed_ms", lambda step, calls, device: next(times))
    rows = measure("sft batch 8", [1, 4], TINY, CPU, torch.float32, repeats=3, calls=1)
    assert [(row.variant, row.width, row.step_ms) for row in rows] == [
        ("solo", 1, 10.0),
        ("fused", 1, 12.0),
        ("fused", 4, 15.0),
    ]
    assert [row.speedup for row in rows] == pytest.approx([1.0, 10 / 12, 40 / 15])


def test_the_table_has_a_line_a_variant_and_a_column_a_width():
    rows = [Row("sft", "solo", 1, 2.0, 1.0), Row("sft", "fused", 1, 2.5, 0.8), Row("sft", "fused", 8, 4.0, 4.0)]
    header, solo, fused = table(rows).splitlines()
    assert header.split() == ["workload", "variant", "width", "1", "width", "8"]
    assert solo.split() == ["sft", "solo", "2.00", "1.00x"]
    assert fused.split() == ["sft", "fused", "2.50", "0.80x", "4.00", "4.00x"]


def test_the_result_names_the_device_and_the_torch_that_measured_it(tmp_path, capsys):
    target = tmp_path / "fusion.json"
    main(
        ["--widths", "1,2", "--workloads", "decode batch 8", "--d-model", "16", "--repeats", "1", "--json", str(target)]
    )
    result = json.loads(target.read_text())
    assert result["torch"] == torch.__version__
    assert result["device"]
    assert {(row["variant"], row["width"]) for row in result["rows"]} >= {("solo", 1), ("fused", 1), ("fused", 2)}
    assert all(row["step_ms"] > 0.0 for row in result["rows"])
    said = capsys.readouterr()
    assert "decode batch 8" in said.out
    assert ("no GPU" in said.err) is (not torch.cuda.is_available())
