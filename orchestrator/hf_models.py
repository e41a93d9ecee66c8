"""Hugging Face models as they lie on this machine: where, and whether a study can use them. Nothing is downloaded here,
and no weights are read.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from orchestrator.config import ConfigError
from orchestrator.schema.training import Training
from orchestrator.schema.trust import TRUSTED_MODELS, code_is_trusted

CONFIG_FILE = "config.json"


def model_folder(path: str, prefix: str = "") -> Path:
    """The folder of a model that is given as a folder, or by its name on the hub and was fetched before.

    Raises ConfigError, about `path` below `prefix`, with the command that fetches it, where there is none.
    """
    if path and Path(path).is_dir():
        return Path(path)
    if not path or path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise ConfigError(
            f"{prefix}model.path", repr(path), "no such folder; give one with config.json and safetensors"
        )
    return _fetched(path, prefix)


@lru_cache(maxsize=64)
def _fetched(name: str, prefix: str) -> Path:
    from huggingface_hub import snapshot_download  # late: a folder needs none of it
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError):
        remedy = (
            "no such folder, and not in this machine's cache of the hub; fetch it once, where there is a network: "
            f"hf download {name} --include '*.safetensors' --include '*.json' --include '*.txt' --include '*.jinja'"
        )
        raise ConfigError(f"{prefix}model.path", name, remedy) from None


def located(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """A resolved `model` part with the folder in place of a name on the hub: what a stage is told."""
    return {**model, "path": str(model_folder(model["path"]).resolve())}


def check_hf_model(prefix: str, model: Mapping[str, Any], deepspeed: Mapping[str, Any]) -> None:
    """Raises ConfigError for a model that no stage could load or train."""
    folder = model_folder(model["path"], prefix)
    for pattern in (CONFIG_FILE, "*.safetensors", "tokenizer*.json"):
        if not any(folder.glob(pattern)):
            remedy = f"no {pattern} in it; save model and tokenizer with `save_pretrained`"
            raise ConfigError(f"{prefix}model.path", model["path"], remedy)
    try:
        published = json.loads((folder / CONFIG_FILE).read_text())
    except ValueError as error:
        raise ConfigError(f"{prefix}model.path", model["path"], f"{CONFIG_FILE} is not JSON ({error})") from None
    if "auto_map" in published and not code_is_trusted(folder):
        remedy = (
            "its code comes with it (auto_map), and such code is never run but in folders an administrator trusts; "
            f"use a model that transformers has, or set {TRUSTED_MODELS}={folder} where studies are submitted and run"
        )
        raise ConfigError(f"{prefix}model.path", model["path"], remedy)
    lora = model["lora"]
    if model["training"] == Training.lora and lora["rank"] > lora["max_rank"]:
        remedy = f"use at most model.lora.max_rank={lora['max_rank']}, or raise that"
        raise ConfigError(f"{prefix}model.lora.rank", lora["rank"], remedy)
    if model["training"] == Training.lora and not lora["target_modules"]:
        raise ConfigError(f"{prefix}model.lora.target_modules", "[]", "name layers, such as [q_proj,v_proj]")
    if model["training"] == Training.full and model["dtype"] == "bfloat16" and not deepspeed["bf16"]["enabled"]:
        remedy = "all of a model trains in float32, or with fp32 master weights: add deepspeed.bf16.enabled=true"
        raise ConfigError(f"{prefix}model.dtype", model["dtype"], remedy)
