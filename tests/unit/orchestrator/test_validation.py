"""Refusals of what an algorithm, or a task, is told: they name the field, the value and what would do."""

import pytest

from orchestrator.config import ConfigError
from orchestrator.sweep import compose_study


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm=dapo", "algorithm.max_sampling_rounds=0"], r"algorithm\.max_sampling_rounds=0: use 1"),
        (
            ["algorithm=dapo", "algorithm.overlong_buffer=4"],
            r"algorithm\.overlong_buffer=4: use fewer .*=4",
        ),
        (["algorithm=gspo", "algorithm.length_penalty=-1"], r"algorithm\.length_penalty=-1"),
        (["algorithm=rejection_sft", "algorithm.sampling.keep=0"], r"algorithm\.sampling\.keep=0: use a whole number"),
        (["algorithm=dpo", "algorithm.label_smoothing=0.5"], r"algorithm\.label_smoothing=0\.5: use 0, or"),
        (["algorithm=dpo", "algorithm.beta=0"], r"algorithm\.beta=0\.0: use a positive"),
        (["task.reward.format=0.1"], r"task\.reward\.format=0\.1: .*reversed has nothing to keep to"),
        (["task.reward.accuracy=0"], r"task\.reward\.accuracy=0\.0: use a positive"),
        (["task.curriculum=[{until: 0, options: {}}]"], r"task\.curriculum\[0\]\.until=0: use a whole number"),
        (["rollout=vllm"], r"rollout\.engine=vllm: vLLM decodes a whole Hugging Face model: use builtin, or model=hf"),
        (["rollout.max_rows=-1"], r"rollout\.max_rows=-1: use 0"),
        (["heads=multi_token", "model.prediction.depth=0"], r"model\.prediction\.depth=0: use how many tokens"),
        (["heads=multi_token", "model.prediction.weight=-1"], r"model\.prediction\.weight=-1\.0: use 0"),
        (["quantization=int8"], r"quantization\.name=int8: no stage quantizes; use recipe=quantized"),
        (["recipe=quantized", "quantization.kv_bits=4"], r"quantization\.kv_bits=4: use 8 or 6 bits"),
        (["report.patience_s=0"], r"report\.patience_s=0\.0: use a positive"),
        (["evaluation.load=-1"], r"evaluation\.load=-1: use 0"),
        (["task.curriculum=[{until: 5}]"], r"task\.curriculum\[0\]=.*: a level is \{until"),
    ],
)
def test_what_cannot_be_trained_with_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_study(overrides)


def test_quantizations_of_a_model_share_its_training() -> None:
    variants = compose_study(["recipe=quantized", "quantization=none,int8,kv6"]).variants
    assert len({variant.stages[0].key for variant in variants}) == 1
    assert len({variant.stages[1].key for variant in variants}) == 3


def test_named_kinds_of_grpo_are_told_apart_and_share_a_stack() -> None:
    from orchestrator.schema.fusion_key import fusion_key

    variants = compose_study(["algorithm=grpo,dapo,rloo"]).variants
    assert [variant.algorithm for variant in variants] == ["grpo", "dapo", "rloo"]
    keys = [fusion_key(variant.stages[-1].config) for variant in variants]
    assert keys[0] == keys[1] == keys[2]


def test_heads_are_swept_into_the_model_and_fuse_among_themselves() -> None:
    from orchestrator.fusion import fusion_digest

    next_token, multi_token = compose_study(["heads=next_token,multi_token"]).variants
    assert multi_token.config["model"]["prediction"]["kind"] == "multi_token"
    assert next_token.key != multi_token.key
    digests = [fusion_digest(variant.stages[-1]) for variant in (next_token, multi_token)]
    assert all(digests)
    assert digests[0] != digests[1]
