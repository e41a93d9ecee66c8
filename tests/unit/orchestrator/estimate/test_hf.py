"""What Hugging Face models take, from their `config.json`."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.estimate import stage_footprint
from orchestrator.estimate.hf import HfSizes
from orchestrator.schema import DeviceKind
from orchestrator.schema.training import StageConfig, stage_config
from orchestrator.sweep import compose_study
from tests.hf_models import QWEN_2_5_0_5B, write_model, write_published

GIB = 2**30


def test_the_published_shape_gives_the_published_number_of_parameters() -> None:
    assert HfSizes(QWEN_2_5_0_5B).parameters == 494_032_768


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_parameters_are_those_that_transformers_makes(tmp_path: Path, family: str) -> None:
    from safetensors import safe_open

    write_model(tmp_path, family)
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        made = {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    sizes = HfSizes.at(tmp_path)
    assert sizes.parameters == sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in made.values())
    for end, (rows, columns) in sizes.linear_layers.items():
        found = [shape for name, shape in made.items() if name.endswith(f"{end}.weight")]
        assert found == [[columns, rows]] * sizes.layers


def test_adapters_are_two_matrices_a_layer() -> None:
    sizes = HfSizes(QWEN_2_5_0_5B)
    assert sizes.adapter_parameters(["q_proj", "v_proj"], 8) == 24 * 8 * (896 + 896 + 896 + 128)


def test_what_a_config_leaves_out_is_named() -> None:
    with pytest.raises(ValueError, match=r"config\.json says no hidden_size"):
        HfSizes({"vocab_size": 3})


def stage_of(folder: Path, algorithm: str, **model: Any) -> StageConfig:
    write_published(folder / "model", QWEN_2_5_0_5B)
    problems = folder / "gsm8k.jsonl"
    problems.write_text('{"prompt": "1+1=", "answer": "2"}\n')
    overrides = [
        "study=qwen_gsm8k",
        f"model.path={folder / 'model'}",
        f"task.path={problems}",
        f"algorithm={algorithm}",
    ]
    variant = compose_study([*overrides, *(f"model.{name}={value}" for name, value in model.items())]).variants[0]
    return stage_config(json.loads(json.dumps(dict(variant.stages[-1].config))))


def test_a_frozen_base_costs_its_weights_and_nothing_more(tmp_path: Path) -> None:
    lora, full = (stage_of(tmp_path, "sft", training=t, dtype="float32") for t in ("lora", "full"))
    adapters, whole = (stage_footprint(stage, DeviceKind.CUDA) for stage in (lora, full))
    parameters = HfSizes(QWEN_2_5_0_5B).parameters
    trained = HfSizes(QWEN_2_5_0_5B).adapter_parameters(lora.model.lora.target_modules, 16)  # type: ignore[union-attr]
    assert adapters.weights == 4 * (parameters + trained)
    assert adapters.optimizer == 8 * trained
    assert whole.optimizer == 8 * parameters


def test_half_precision_halves_the_base(tmp_path: Path) -> None:
    stage = stage_of(tmp_path, "sft", dtype="bfloat16")
    footprint = stage_footprint(stage, DeviceKind.CUDA)
    assert footprint.weights - footprint.gradients == 2 * HfSizes(QWEN_2_5_0_5B).parameters


def test_layers_that_are_computed_again_are_not_kept(tmp_path: Path) -> None:
    kept, again = (
        stage_footprint(stage_of(tmp_path, "grpo", gradient_checkpointing=value), DeviceKind.CUDA).learning
        for value in ("false", "true")
    )
    assert again < kept


def test_scores_are_kept_where_attention_is_eager(tmp_path: Path) -> None:
    sdpa, eager = (
        stage_footprint(stage_of(tmp_path, "grpo", attention=kind), DeviceKind.CUDA).learning
        for kind in ("sdpa", "eager")
    )
    assert eager > sdpa


def test_a_kl_reference_is_another_adapter_and_no_other_base(tmp_path: Path) -> None:
    stage = stage_of(tmp_path, "grpo")
    stage.algorithm.kl_weight = 0.1  # type: ignore[attr-defined]
    footprint = stage_footprint(stage, DeviceKind.CUDA)
    assert footprint.copies == footprint.gradients


@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
def test_the_study_says_what_it_is_estimated_to_take(tmp_path: Path, algorithm: str) -> None:
    gib = stage_footprint(stage_of(tmp_path, algorithm), DeviceKind.CUDA).device_bytes / GIB
    header = Path("conf/study/qwen_gsm8k.yaml").read_text()
    assert f"{algorithm} {gib:.1f} GiB" in header
