"""A trained model, quantized: how right it still is, what it costs, and what lies in the output."""

import json
from pathlib import Path

import pytest
import torch

from experiments.batches import encode_prompts
from experiments.building import frozen_base
from experiments.fusion.lora.stack import LoraStack
from experiments.models.kv_cache import packed_bytes
from experiments.models.quantization import QuantizedLinear
from experiments.outcomes import parameter_counts, weight_bytes
from experiments.rollout import generate
from experiments.stages.quantize import load_quantized, served_model
from experiments.tasks import CharTokenizer
from orchestrator.schema.training import HfModelConfig, LoraConfig, Weights, stage_config
from tests.hf_models import write_model
from tests.unit.experiments.children import run_in_child
from tests.unit.experiments.stage_runs import run_stage, stage_data

INT8_LOSS, INT4_LOSS = 0.05, 0.15
"""How much accuracy quantization may cost, of a model that is right more often than not."""
QUANTIZATIONS = {
    "none": {},
    "int8": {"weights": "int8"},
    "int4": {"weights": "int4"},
    "kv8": {"kv_bits": 8},
    "kv6": {"kv_bits": 6},
}


def _write_problems(folder: Path) -> Path:
    """Three digits, to be said backwards: learned by rule within seconds."""
    path = folder / "problems.jsonl"
    lines = [{"prompt": f"{number}=", "answer": str(number)[::-1]} for number in range(100, 1000)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _data(problems: Path, algorithm, lr=3e-3):
    data = stage_data(problems, algorithm, lr=lr)
    data["model"] = {"d_model": 32, "layers": 2, "heads": 4, "kv_heads": 2, "d_ff": 64}
    data["task"] |= {"max_answer_tokens": 4, "split": {"supervised": 500, "dev": 32, "test": 200}}
    data["evaluation"]["every_steps"] = algorithm.get("max_steps", 1)
    return data


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, problems, result of a stage that is right more often than not)."""
    folder = tmp_path_factory.mktemp("quantized")
    problems = _write_problems(folder)
    data = _data(problems, {"name": "sft", "max_steps": 100, "batch_size": 32})
    (result,) = run_stage(folder, data, name="trained")
    return folder, problems, result


@pytest.fixture(scope="module")
def quantized(trained):
    folder, problems, _ = trained
    data = {name: _data(problems, {"name": "quantize", **options}) for name, options in QUANTIZATIONS.items()}
    parent = folder / "trained" / "output"
    return {name: run_stage(folder, one, parent=parent, name=name)[0] for name, one in data.items()}


def test_without_quantization_the_outcome_is_that_of_the_trained_model(trained, quantized):
    metrics, before = quantized["none"].outcome.metrics, trained[2].outcome.metrics
    for name in ("accuracy", "dev_accuracy", "tokens_per_answer", "kv_bytes_per_token", "weight_bytes"):
        assert metrics[name] == before[name]


@pytest.mark.parametrize(("name", "loss"), [("int8", INT8_LOSS), ("kv8", INT8_LOSS), ("kv6", INT8_LOSS)])
def test_8_bits_and_a_smaller_cache_cost_little_accuracy(trained, quantized, name, loss):
    before = trained[2].outcome.metrics["accuracy"]
    assert before > 0.5
    assert quantized[name].outcome.metrics["start_accuracy"] == before
    assert quantized[name].outcome.metrics["accuracy"] >= before - loss


def test_weights_in_fewer_bits_take_fewer_bytes(quantized):
    taken = [quantized[name].outcome.metrics["weight_bytes"] for name in ("none", "int8", "int4")]
    assert taken == sorted(taken, reverse=True)
    assert len({quantized[name].outcome.metrics["params_total"] for name in ("none", "int8", "int4")}) == 1


@pytest.mark.parametrize("bits", [6, 8])
def test_a_cache_in_fewer_bits_takes_as_many_bytes_as_its_codes_and_scales(quantized, bits):
    layers, kv_heads, head_dim = 2, 2, 8
    rows = layers * kv_heads * 2
    assert quantized[f"kv{bits}"].outcome.metrics["kv_bytes_per_token"] == rows * packed_bytes(head_dim, bits)
    assert quantized["none"].outcome.metrics["kv_bytes_per_token"] == rows * head_dim * 4


def test_the_output_is_the_trained_model(trained, quantized):
    for name, weight in trained[2].weights.items():
        assert torch.equal(quantized["int8"].weights[name], weight)


def _answers(output: Path, data):
    tokenizer = CharTokenizer()
    model = load_quantized(stage_config(data).model, output, torch.device("cpu"))
    prompts = encode_prompts(["123=", "987="], tokenizer, torch.device("cpu"))
    cache = type(model.new_cache()).__name__
    return generate(model, prompts, tokenizer, 4).tokens.tolist(), cache


@pytest.mark.parametrize(("name", "cache"), [("int4", "KVCache"), ("kv6", "QuantizedKVCache")])
def test_the_description_in_the_output_makes_the_served_model(trained, quantized, name, cache):
    folder, problems, _ = trained
    data = _data(problems, {"name": "quantize", **QUANTIZATIONS[name]})
    answers, kind = run_in_child(_answers, folder / name / "output", data)
    assert kind == cache
    assert len(answers) == 2


def test_adapters_are_served_over_a_quantized_base_that_is_not_the_one_others_share(tmp_path):
    write_model(tmp_path)
    lora = LoraConfig(rank=2, max_rank=2, target_modules=["q_proj", "v_proj"])
    config = HfModelConfig(path=str(tmp_path), lora=lora)
    base = frozen_base(config, torch.device("cpu"))
    model = LoraStack.of(base, [base.fresh_adapter(lora, seed=0)], lora.rank)
    served = served_model(model, config, Weights.int8, kv_bits=8)
    tokens, positions = torch.arange(3, 9).view(1, 6), torch.arange(6)
    with torch.no_grad():
        expected, answer = model(tokens, positions), served(tokens, positions)
    assert 0 < (answer - expected).abs().max() < 0.02 * expected.std()
    assert not [layer for layer in base.model.modules() if isinstance(layer, QuantizedLinear)]
    assert parameter_counts(served) == parameter_counts(model)
    assert weight_bytes(served) < weight_bytes(model)


def test_a_stopped_stage_goes_on(trained, quantized):
    folder, problems, _ = trained
    data = _data(problems, {"name": "quantize", "weights": "int8"})
    parent = folder / "trained" / "output"
    (stopped,) = run_stage(folder, data, parent=parent, name="stopped", stop_at=1)
    assert not stopped.outcome.finished
    (resumed,) = run_stage(folder, data, parent=parent, name="stopped")
    assert resumed.outcome.metrics["accuracy"] == quantized["int8"].outcome.metrics["accuracy"]


def test_learning_with_rounded_weights_leaves_a_model_that_is_right_with_them(trained, quantized):
    folder, problems, result = trained
    aware = {"name": "quantization_aware_sft", "max_steps": 60, "batch_size": 32, "weights": "int4"}
    data = _data(problems, aware, lr=1e-3)
    (learned,) = run_stage(folder, data, parent=folder / "trained" / "output", name="aware")
    served = _data(problems, {"name": "quantize", "weights": "int4"})
    (last,) = run_stage(folder, served, parent=folder / "aware" / "output", name="aware-int4")
    # What it learned with is what is served.
    assert last.outcome.metrics["accuracy"] == learned.outcome.metrics["accuracy"]
    assert last.outcome.metrics["accuracy"] >= result.outcome.metrics["accuracy"] - INT4_LOSS
