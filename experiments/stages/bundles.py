"""The stack of a fused stage, whatever its members' kind: made, joined, and a member as its session wants an engine."""

from functools import lru_cache
from pathlib import Path
from typing import cast

import torch

from experiments.building import frozen_base, initial_adapter, initial_model
from experiments.engine import DeepSpeedLoraStack, DeepSpeedStack
from experiments.fusion.bundle import Bundle
from experiments.fusion.checkpoint import MemberEngine
from experiments.fusion.lora.bundle import LoraBundle, LoraMemberEngine
from experiments.models.decoder import Decoder
from experiments.models.multi_token import read_decoder
from experiments.tasks import Task
from orchestrator.schema.training import HfModelConfig, StageConfig


def open_bundle(task: Task, config: StageConfig, device: torch.device) -> Bundle:
    """An empty one for members of the fusion key of `config`. Raises as `Bundle` does, and what `frozen_base` does."""
    if isinstance(config.model, HfModelConfig):
        base = frozen_base(config.model, device)
        return LoraBundle(task, config, base, config.model.lora.max_rank, DeepSpeedLoraStack)
    return Bundle(task, config, device, DeepSpeedStack)


def member_engine(bundle: Bundle, name: str, config: StageConfig) -> MemberEngine:
    """The engine of a member that will be put in."""
    if isinstance(bundle, LoraBundle):
        return LoraMemberEngine(bundle, name, cast(HfModelConfig, config.model).lora)
    return MemberEngine(bundle, name)


def initial_member(bundle: Bundle, config: StageConfig, parent: str) -> Decoder:
    """What a member starts from; see `initial_model`. Raises as that does."""
    if isinstance(bundle, LoraBundle):
        # What a bundle over a base calls a decoder.
        return cast(Decoder, bundle.member_of(initial_adapter(config, parent, bundle.base)))
    return _output_of(parent) if parent else cast(Decoder, initial_model(config, "", torch.device("cpu")))


@lru_cache(maxsize=1)
def _output_of(parent: str) -> Decoder:
    """The decoder that a committed output holds, for all members that begin with it: nobody changes it."""
    return read_decoder(Path(parent)).float()
