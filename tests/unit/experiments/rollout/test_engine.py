import importlib.util
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.batches import encode_prompts
from experiments.models.hf import FullModel, HfModel, load_base
from experiments.rollout import generate, sampling_noise
from experiments.rollout.engine import Builtin, open_rollouts
from experiments.rollout.weights import plain_weights
from experiments.tasks import CharTokenizer
from experiments.tasks.hf_tokenizer import load
from orchestrator.schema.training import (
    AlgorithmConfig,
    AttentionKind,
    DeepSpeedConfig,
    EvaluationConfig,
    HfModelConfig,
    OptimizerConfig,
    RolloutConfig,
    RolloutEngineName,
    StageConfig,
    TaskConfig,
    Training,
)
from tests.hf_models import write_model, write_tokenizer
from tests.unit.experiments.decoders import small_decoder

CPU = torch.device("cpu")


def sampled(engine, model, tokenizer, texts=("1+1=", "12+34=", "2=")):
    prompts = encode_prompts(texts, tokenizer, CPU)
    noise = sampling_noise(len(texts) * 4, 8, torch.Generator().manual_seed(0))
    options = {"group_size": 4, "temperature": 0.9, "noise": noise}
    return engine.sample(model, prompts, tokenizer, 8, **options), generate(model, prompts, tokenizer, 8, **options)


def stage(rollout: RolloutConfig, model) -> StageConfig:
    return StageConfig(
        algorithm=AlgorithmConfig(),
        optimizer=OptimizerConfig(),
        model=model,
        task=TaskConfig(),
        deepspeed=DeepSpeedConfig(),
        evaluation=EvaluationConfig(),
        rollout=rollout,
    )


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {}),
        ("qwen2", {}),
        ("llama", {"head_dim": 8, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    ],
)
def test_a_hugging_face_model_samples_what_its_own_code_does(tmp_path: Path, family, options):
    write_model(tmp_path, family, **options)
    write_tokenizer(tmp_path)
    model = HfModel(load_base(tmp_path))
    assert plain_weights(model) is not None
    ours, theirs = sampled(Builtin(max_rows=8), model, load(str(tmp_path), "none"))
    assert torch.equal(ours.tokens, theirs.tokens)
    torch.testing.assert_close(ours.log_probs, theirs.log_probs, atol=1e-5, rtol=1e-4)


def test_weights_are_read_anew_at_each_rollout(tmp_path: Path):
    write_model(tmp_path)
    write_tokenizer(tmp_path)
    model, engine = FullModel(load_base(tmp_path)), Builtin()
    tokenizer = load(str(tmp_path), "none")
    sampled(engine, model, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    ours, theirs = sampled(engine, model, tokenizer)
    assert torch.equal(ours.tokens, theirs.tokens)


def test_another_kind_of_attention_is_decoded_in_one_batch():
    decoder = small_decoder(attention=AttentionKind.mla, kv_rank=16, rope_dim=8)
    assert plain_weights(decoder) is None
    ours, theirs = sampled(Builtin(), decoder, CharTokenizer())
    assert torch.equal(ours.tokens, theirs.tokens)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_built_in_engine_decodes_and_one_message_says_so(caplog):
    config = stage(RolloutConfig(engine=RolloutEngineName.vllm, max_rows=3), HfModelConfig(training=Training.full))
    with caplog.at_level(logging.WARNING):
        engine = open_rollouts(config, max_tokens=8)
    assert isinstance(engine, Builtin)
    assert engine.max_rows == 3
    assert [record.message.split(":")[0] for record in caplog.records] == ["rollout.engine=vllm"]


def test_the_built_in_engine_is_chosen_without_a_message(caplog):
    config = stage(RolloutConfig(), HfModelConfig(training=Training.full))
    assert isinstance(open_rollouts(replace(config), max_tokens=8), Builtin)
    assert not caplog.records
