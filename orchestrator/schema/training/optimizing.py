"""How weights move: AdamW, its schedule, and DeepSpeed under its own names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Schedule(StrEnum):
    """Learning rate over the steps after the linear warm-up; all but constant end at zero on the last step.

    wsd: warm-up, stable, decay (arXiv:2404.06395): constant until the decay of the last steps begins. Runs that differ
    in when that is, or in how it goes, share what comes before it.
    """

    constant = "constant"
    linear = "linear"
    cosine = "cosine"
    wsd = "wsd"


class Decay(StrEnum):
    """The shape of the decay of `wsd`: the part of it that is over, or that part's square root, is what the rate lacks
    (arXiv:2405.18392, "linear" and "1-sqrt")."""

    linear = "linear"
    sqrt = "sqrt"


@dataclass
class OptimizerConfig:
    """AdamW and its schedule. `lr` is the peak. `wsd` decays over its last `decay_steps` steps, over `decay_fraction`
    of all where that is 0; other schedules look at neither, nor at `decay`."""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: Schedule = Schedule.constant
    warmup_steps: int = 0
    decay: Decay = Decay.linear
    decay_fraction: float = 0.2
    decay_steps: int = 0


@dataclass
class OffloadConfig:
    """DeepSpeed's `offload_optimizer`: `none` or `cpu`."""

    device: str = "none"
    pin_memory: bool = False


@dataclass
class ZeroConfig:
    """DeepSpeed's `zero_optimization`."""

    stage: int = 0
    offload_optimizer: OffloadConfig = field(default_factory=OffloadConfig)


@dataclass
class PrecisionConfig:
    """DeepSpeed's `bf16`."""

    enabled: bool = False


@dataclass
class DeepSpeedConfig:
    """DeepSpeed's own configuration under its own names; `extra` is merged in as it stands.

    On the command line a key of `extra` is a new one to Hydra: `+deepspeed.extra.prescale_gradients=true`.
    """

    zero_optimization: ZeroConfig = field(default_factory=ZeroConfig)
    bf16: PrecisionConfig = field(default_factory=PrecisionConfig)
    gradient_accumulation_steps: int = 1
    gradient_clipping: float = 1.0
    extra: dict[str, Any] = field(default_factory=dict)


def decay_steps(optimizer: Mapping[str, Any], steps: int) -> int:
    """How many of a stage's `steps` its schedule `wsd` decays over, at least one. `optimizer`: an `OptimizerConfig` as
    plain data."""
    return int(optimizer["decay_steps"]) or max(1, round(optimizer["decay_fraction"] * steps))
