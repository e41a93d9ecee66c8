"""`attention=` and `ffn=`: groups that write into `model`."""

from pathlib import Path

import pytest

from orchestrator.config import ConfigError
from orchestrator.schema.training import ModelConfig, model_config
from orchestrator.sweep import compose_study
from tests.hf_models import QWEN_2_5_0_5B, write_published


def model_of(*overrides: str) -> ModelConfig:
    (variant,) = compose_study(overrides).variants
    model = model_config(variant.stages[-1].config["model"])
    assert isinstance(model, ModelConfig)
    return model


def test_the_model_is_multi_head_and_dense_unless_told_otherwise() -> None:
    assert model_of() == model_of("attention=mha", "ffn=dense") == ModelConfig()


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (8, 8)])
def test_multi_head_attention_has_as_many_key_heads_as_heads(heads: int, kv_heads: int) -> None:
    assert model_of(f"model.heads={heads}").kv_heads == kv_heads


@pytest.mark.parametrize(("choice", "kv_heads"), [("gqa", 2), ("mqa", 1)])
def test_fewer_key_heads_are_a_choice(choice: str, kv_heads: int) -> None:
    assert model_of(f"attention={choice}").kv_heads == kv_heads


def test_both_groups_meet_in_one_model_and_give_way_to_single_values() -> None:
    model = model_of("attention=mla", "ffn=moe", "model.kv_rank=16", "model.experts=4")
    assert (model.attention, model.kv_rank, model.ffn, model.experts) == ("mla", 16, "moe", 4)


def test_a_sweep_over_both_groups_has_all_combinations() -> None:
    variants = compose_study(["attention=mha,gqa,mqa,mla", "ffn=dense,moe"]).variants
    found = {tuple(variant.config["model"][name] for name in ("attention", "kv_heads", "ffn")) for variant in variants}
    assert len(variants) == 8
    attentions = [("heads", 4), ("heads", 2), ("heads", 1), ("mla", 4)]
    assert found == {(*attention, ffn) for attention in attentions for ffn in ("dense", "moe")}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["attention=mla", "model.rope_dim=3"], "model.rope_dim=3: use an even number of at least 2"),
        (["attention=mla", "model.kv_rank=0"], "model.kv_rank=0: use a whole number of at least 1"),
        (["ffn=moe", "model.experts_per_token=9"], "model.experts_per_token=9: a token has at most all of the 8"),
        (["ffn=moe", "model.balancing=luck"], "model.balancing=luck:"),
        (["attention=mha2"], "attention=mha2: did you mean mha?"),
        (["attention=gqa", "model.heads=3", "model.d_model=66"], "model.kv_heads=2: use a divisor of heads=3"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_study(overrides)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("choice", ["attention=mla", "attention=gqa", "ffn=moe"])
def test_a_hugging_face_model_has_its_own(tmp_path: Path, choice: str) -> None:
    folder = write_published(tmp_path, QWEN_2_5_0_5B)
    with pytest.raises(ConfigError) as caught:
        compose_study(["model=hf", f"model.path={folder}", choice])
    assert str(caught.value).startswith(f"{choice}: that is for compact decoders")
