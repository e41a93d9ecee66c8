"""What a stage does: every algorithm, its options by their papers, and how it decodes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.schema.training.models import Weights


class Aggregation(StrEnum):
    """How per-token losses become one number.

    sequence: mean over tokens of each completion, then over completions (GRPO, arXiv:2402.03300 eq. 3).
    token: sum over all tokens of the global batch / number of those tokens (DAPO, arXiv:2503.14476 eq. 12).
    constant: sum over all tokens / (completions x max_answer_tokens) (Dr. GRPO, arXiv:2503.20783).
    """

    sequence = "sequence"
    token = "token"
    constant = "constant"


class AdvantageScale(StrEnum):
    """What a group's centred rewards are divided by: their standard deviation (GRPO), or nothing (Dr. GRPO)."""

    std = "std"
    none = "none"


class Baseline(StrEnum):
    """What a completion's reward is compared with: the mean over its group, itself included (GRPO), or over the others
    of its group (`leave_one_out`: RLOO, arXiv:2402.14740)."""

    group = "group"
    leave_one_out = "leave_one_out"


class ImportanceLevel(StrEnum):
    """What the ratio of policy to old policy is of: each token (GRPO), or the whole completion, as the geometric mean
    of its tokens' ratios (`sequence`: GSPO, arXiv:2507.18071)."""

    token = "token"
    sequence = "sequence"


class RolloutEngineName(StrEnum):
    """Who decodes when a stage samples: this project's own engine, or vLLM where it is installed."""

    builtin = "builtin"
    vllm = "vllm"


@dataclass
class RolloutConfig:
    """How a stage samples. `max_rows`: at most so many completions are decoded together, others wait (0: any number).
    `memory_fraction`: the part of the device's memory that vLLM takes for itself."""

    engine: RolloutEngineName = RolloutEngineName.builtin
    max_rows: int = 0
    memory_fraction: float = 0.3


@dataclass
class AlgorithmConfig:
    """What every algorithm has. `entrypoint` is `package.module:function`; `fused_entrypoint` too, of a program that
    trains many such stages at once, "" where there is none. `continues`: a run of it leaves its training state in its
    output, and a longer one goes on from there bit for bit; then runs may share a trunk. `phases`: what each of its
    steps does in turn, as its entrypoint tells its channel: `rollout` (decoding), `learn`; none if it tells nothing."""

    name: str = ""
    entrypoint: str = ""
    fused_entrypoint: str = ""
    max_steps: int = 1
    continues: bool = False
    phases: list[str] = field(default_factory=list)


@dataclass
class SftConfig(AlgorithmConfig):
    """Next-token loss on answers only. A stage ends early once dev accuracy reaches `stop_at_accuracy` (1.0: never)."""

    batch_size: int = 32
    stop_at_accuracy: float = 1.0


@dataclass
class SamplingConfig:
    """`per_prompt` completions of each of the first `prompts` RL prompts (0: all), at `temperature`, `batch_size`
    prompts at a time. At most `keep` different ones of a prompt are kept, in the order they were drawn."""

    prompts: int = 0
    per_prompt: int = 8
    keep: int = 4
    temperature: float = 1.0
    batch_size: int = 64


@dataclass
class RejectionSftConfig(SftConfig):
    """Supervised fine-tuning on the right answers among those that the stage before samples (arXiv:2308.01825; stage 3
    of DeepSeek-R1, arXiv:2501.12948). `fresh`: it is not that policy which learns them but a model of its own, with new
    weights: distillation."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    fresh: bool = False


@dataclass
class DpoConfig(AlgorithmConfig):
    """Direct preference optimization (arXiv:2305.18290) of the stage before, which is its reference too, on pairs of a
    right and a wrong answer of its own; `batch_size` pairs a step."""

    batch_size: int = 16
    beta: float = 0.1
    label_smoothing: float = 0.0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass
class GrpoConfig(AlgorithmConfig):
    """Group-relative policy optimization (arXiv:2402.03300) with the options of DAPO, Dr. GRPO, GSPO and RLOO.

    Each step samples `group_size` completions for each of `prompts_per_step` prompts and takes
    `updates_per_rollout` optimizer steps on them. The ratio is clipped to [1 - clip_low, 1 + clip_high]. `kl_weight`
    weighs the k3 estimator of the KL to the stage's initial policy. Groups without reward spread are skipped.

    max_sampling_rounds: while fewer than `prompts_per_step` groups have spread, further prompts are sampled, in so many
    rounds at most (1: never again; DAPO's dynamic sampling, arXiv:2503.14476 eq. 11). overlong_buffer: completions lose
    up to 1 of their reward over their last tokens before `task.max_answer_tokens` (0: never; DAPO eq. 13).
    mask_truncated: completions that ended without EOS are no part of the loss (DAPO's overlong filtering).
    length_penalty: weight of the reward for being shorter than others of the group (arXiv:2501.12599, section 2.3.3).
    """

    prompts_per_step: int = 16
    group_size: int = 8
    temperature: float = 1.0
    updates_per_rollout: int = 1
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_weight: float = 0.0
    aggregation: Aggregation = Aggregation.sequence
    importance_level: ImportanceLevel = ImportanceLevel.token
    baseline: Baseline = Baseline.group
    advantage_scale: AdvantageScale = AdvantageScale.std
    max_sampling_rounds: int = 1
    overlong_buffer: int = 0
    mask_truncated: bool = False
    length_penalty: float = 0.0


@dataclass
class QuantizeConfig(AlgorithmConfig):
    """The model of the stage before, with `weights` in fewer bits and a cache in `kv_bits`: no training, one step."""

    weights: Weights = Weights.none
    kv_bits: int = 0


@dataclass
class QuantizationAwareSftConfig(SftConfig):
    """Supervised fine-tuning of a model whose linear layers compute with `weights` as they will be after training
    (arXiv:1712.05877, with straight-through gradients)."""

    weights: Weights = Weights.none


ALGORITHMS: Mapping[str, type[AlgorithmConfig]] = {
    "sft": SftConfig,
    **dict.fromkeys(("grpo", "dapo", "gspo", "rloo"), GrpoConfig),
    **dict.fromkeys(("rejection_sft", "distill"), RejectionSftConfig),
    "dpo": DpoConfig,
    "quantize": QuantizeConfig,
    "quantization_aware_sft": QuantizationAwareSftConfig,
}
"""By name. Those that share a config are one algorithm with other options, so that a study tells them apart."""
