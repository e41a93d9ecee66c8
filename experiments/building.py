"""The model of a stage, whatever its kind: made, or taken over from the stage before; written as an output; read again.

A model is a compact `Decoder`, one adapter over a frozen Hugging Face model (a `LoraStack` of one) or a whole one
(`FullModel`). All are called alike, see `Decoder.forward`, and their parameters are what is trained.

| kind | output |
| --- | --- |
| `Decoder` | `model.safetensors`, `model.json` |
| adapter | `adapter_model.safetensors`, `adapter_config.json` with the path of its base: what peft loads |
| `FullModel` | the folder of `save_pretrained`, tokenizer included: good as another study's `model.path` |
"""

import json
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch

from experiments.batches import seeded_generator
from experiments.fusion.lora.base import FrozenBase
from experiments.fusion.lora.stack import LoraStack, adapter_layout
from experiments.models.adapter import ADAPTER_CONFIG_FILE, Adapter, base_of_adapter, load_adapter, save_adapter
from experiments.models.decoder import Decoder, save_decoder
from experiments.models.hf import FullModel, load_base
from experiments.models.multi_token import new_decoder, read_decoder
from experiments.tasks.tokenizer import hf_tokenizer_of, tokenizer_of
from orchestrator.schema.training import (
    AnyModelConfig,
    HfModelConfig,
    LoraConfig,
    StageConfig,
    Training,
    model_config,
)
from orchestrator.schema.trust import code_is_trusted

Model = Decoder | LoraStack | FullModel


def initial_model(config: StageConfig, parent: str, device: torch.device) -> Model:
    """What a stage starts from: its `parent`'s output (a folder) or, without one ("") random weights or a fresh adapter
    from the stage's seed, or a Hugging Face model as it is. In single precision but for what `model.dtype` says.

    Raises what `load_base` and `load_adapter` do, and ValueError for a parent's adapter of another size.
    """
    model = config.model
    if isinstance(model, HfModelConfig):
        if model.training == Training.lora:
            base = frozen_base(model, device)
            return _one_adapter(base, initial_adapter(config, parent, base))
        return _full(model, Path(parent or model.path), device)
    if parent:
        return read_decoder(Path(parent)).float().to(device)
    weights = seeded_generator(config.seed, "weights")
    return new_decoder(model, tokenizer_of(model, config.task).vocab_size, weights).to(device)


def config_of_teacher(config: StageConfig, teacher: str) -> StageConfig:
    """The config of a student's stage with the model in `teacher`'s output (a folder) in place of its own: whose
    tokenizer reads the prompts, and who decodes. A compact decoder says by itself what it is, and reads as its student.

    Raises what `load_adapter` does.
    """
    model, folder = config.model, Path(teacher)
    if not isinstance(model, HfModelConfig):
        return config
    if not (folder / ADAPTER_CONFIG_FILE).exists():
        return replace(config, model=replace(model, path=teacher, training=Training.full))
    adapter = load_adapter(folder)
    targets = list(adapter.target_modules)
    if set(targets) == set(model.lora.target_modules):
        targets = model.lora.target_modules  # in their order, so that a base that both have is one
    lora = LoraConfig(adapter.rank, adapter.alpha, adapter.rank, targets)
    return replace(config, model=replace(model, path=base_of_adapter(folder), training=Training.lora, lora=lora))


def load_model(model: AnyModelConfig, folder: Path, device: torch.device) -> Model:
    """A stage's output, as `save_model` wrote it. Raises FileNotFoundError where there is none."""
    if not isinstance(model, HfModelConfig):
        return read_decoder(folder).to(device)
    if model.training == Training.lora:
        return _one_adapter(frozen_base(model, device), load_adapter(folder))
    return _full(model, folder, device)


def save_model(model: Model, config: AnyModelConfig, folder: Path) -> None:
    """Writes a stage's output into an existing folder."""
    if isinstance(model, Decoder):
        save_decoder(model.state_dict(), model.config, model.vocab_size, folder)
    elif isinstance(model, LoraStack):
        save_adapter(model.adapter(), model.base.path, folder)
    else:
        model.save(folder)
        hf_tokenizer_of(cast(HfModelConfig, config)).save(folder)


def layout_of(model: Model) -> dict[str, Any]:
    """What a checkpoint of a model depends on, besides how it is trained."""
    if isinstance(model, Decoder):
        return {**asdict(model.config), "vocab_size": model.vocab_size}
    if isinstance(model, LoraStack):
        return adapter_layout(model.sizes[0], model.base.target_modules)
    return {name: list(weight.shape) for name, weight in model.named_parameters()}


def frozen_base(model: HfModelConfig, device: torch.device) -> FrozenBase:
    """The base of a model's adapters, in a process once: members of a stack and a KL's reference share it.

    Raises what `FrozenBase.load` does.
    """
    counts = {**asdict(model), "lora": {"target_modules": model.lora.target_modules}}
    return _base_at(json.dumps(counts), device)


def initial_adapter(config: StageConfig, parent: str, base: FrozenBase) -> Adapter:
    """The adapter in the `parent`'s output or, without one, a fresh one. Raises ValueError for one of another size."""
    lora = cast(HfModelConfig, config.model).lora
    if not parent:
        return base.fresh_adapter(lora, config.seed)
    adapter = load_adapter(Path(parent))
    for name in ("rank", "alpha"):
        if getattr(adapter, name) != getattr(lora, name):
            found = getattr(adapter, name)
            raise ValueError(f"model.lora.{name}={getattr(lora, name)}: the adapter to go on from has {found}")
    return adapter


def _one_adapter(base: FrozenBase, adapter: Adapter) -> LoraStack:
    return LoraStack.of(base, [adapter], adapter.rank)


def _full(model: HfModelConfig, folder: Path, device: torch.device) -> FullModel:
    # An output has its code from the model that was trained.
    trusted = code_is_trusted(model.path)
    full = FullModel(load_base(folder, device, getattr(torch, model.dtype), model.attention, run_code=trusted))
    if model.gradient_checkpointing:
        full.recompute_layers()
    return full


@lru_cache(maxsize=1)
def _base_at(counts: str, device: torch.device) -> FrozenBase:
    return FrozenBase.load(cast(HfModelConfig, model_config(json.loads(counts))), device)
