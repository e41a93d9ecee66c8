"""Hugging Face models at the edge: what is refused before a device is taken, and what a stage is told."""

import json
from pathlib import Path

import pytest

from orchestrator.config import ConfigError
from orchestrator.keys import stage_key
from orchestrator.schema.fusion_key import fusion_key
from orchestrator.sweep import compose_study
from tests.hf_models import QWEN_2_5_0_5B, write_published


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_published(tmp_path / "model", QWEN_2_5_0_5B)


def composed(folder: Path | str, *overrides: str) -> list:
    return list(compose_study(["model=hf", f"model.path={folder}", *overrides]).variants)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model.dtype=float16"], r"model\.dtype=float16: use float32 or bfloat16"),
        (["model.attention=flash_attention_2"], r"model\.attention=flash_attention_2: use sdpa or eager"),
        (["model.lora.rank=32"], r"model\.lora\.rank=32: use at most model\.lora\.max_rank=16"),
        (["model.lora.rank=0"], r"model\.lora\.rank=0: use a whole number"),
        (["model.training=full", "model.dtype=bfloat16"], r"model\.dtype=bfloat16: .* deepspeed\.bf16\.enabled=true"),
        (["model.lora.target_modules=[]"], r"model\.lora\.target_modules"),
        (["model.name=decoder"], r"model\.name=decoder: its fields are another model's"),
        (["+model.d_model=64"], r"model\.d_model=64: unknown key"),
    ],
)
def test_what_no_stage_could_train_is_refused(folder: Path, overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        composed(folder, *overrides)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_lacks_a_part_is_refused(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=r"model\.path=.*in it; save model and tokenizer"):
        composed(folder)


def test_vllm_decodes_in_one_process(folder: Path) -> None:
    vllm = ["model.training=full", "rollout=vllm"]
    assert composed(folder, *vllm)
    with pytest.raises(ConfigError, match=r"rollout\.engine=vllm: .*use builtin, or cluster\.devices_per_trial=1"):
        composed(folder, *vllm, "cluster.devices_per_trial=2")


def test_a_model_with_code_of_its_own_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**QWEN_2_5_0_5B, "auto_map": {"AutoConfig": "code.Config"}}))
    with pytest.raises(ConfigError, match="such code is never run"):
        composed(folder)


def test_an_administrator_can_trust_the_folders_of_models_with_code_of_their_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "config.json").write_text(json.dumps({**QWEN_2_5_0_5B, "auto_map": {"AutoConfig": "code.Config"}}))
    monkeypatch.setenv("ORCHESTRATOR_TRUSTED_MODELS", f"/nowhere:{folder.parent}")
    assert composed(folder)


def test_the_bytes_of_a_models_own_code_are_in_the_key(folder: Path) -> None:
    keys = set()
    for code in ("one = 1\n", "one = 2\n"):
        (folder / "modeling.py").write_text(code)
        keys.add(composed(folder)[0].key)
    assert len(keys) == 2


@pytest.mark.parametrize("path", ["", "/nowhere/model", "./nowhere"])
def test_a_folder_that_is_not_there_is_named(path: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.path=.*no such folder"):
        composed(path)


def test_a_name_that_was_never_fetched_says_how_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"model\.path=nobody/nothing: .* hf download nobody/nothing"):
        composed("nobody/nothing")


def test_a_stage_is_told_the_folder_and_its_key_knows_the_bytes_only(folder: Path, tmp_path: Path) -> None:
    first = composed(folder)[0].stages[-1]
    assert first.config["model"]["path"] == str(folder)
    folder.rename(tmp_path / "elsewhere")
    assert composed(tmp_path / "elsewhere")[0].stages[-1].key == first.key


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_byte_of_the_model_changes_the_key(folder: Path, name: str) -> None:
    config = json.loads(json.dumps(dict(composed(folder)[0].stages[-1].config)))
    before = stage_key(config, "p")
    (folder / "README.md").write_text("what nobody reads")
    assert stage_key(config, "p") == before
    with (folder / name).open("a") as file:
        file.write(" ")
    assert stage_key(config, "p") != before


def test_rank_and_alpha_may_be_swept_in_one_stack_and_all_of_a_model_may_not(folder: Path) -> None:
    swept = composed(folder, "model.lora.rank=4,8", "recipe=from_scratch")
    keys = [fusion_key(json.loads(json.dumps(dict(variant.stages[-1].config)))) for variant in swept]
    assert keys[0] == keys[1]
    whole = composed(folder, "model.training=full", "recipe=from_scratch")[0].stages[-1].config
    with pytest.raises(ValueError, match=r"model\.training=full: only adapters"):
        fusion_key(json.loads(json.dumps(dict(whole))))


def test_models_of_both_kinds_may_be_swept(folder: Path) -> None:
    (one,) = compose_study(["model=hf", f"model.path={folder}"]).variants
    (other,) = compose_study(["model=decoder"]).variants
    assert {v.config["model"]["name"] for v in (one, other)} == {"hf", "decoder"}
