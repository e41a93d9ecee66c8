"""What a training stage can be told: the part of the Hydra surface that reaches the worker.

Plain (not frozen) dataclasses, since they double as OmegaConf's structured configs. Ranges are checked in
`orchestrator.config`, before any device is taken; a stage may rely on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")


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
class ModelConfig:
    """A compact decoder-only transformer. `kv_heads` < `heads` is grouped-query attention, 1 is multi-query."""

    name: str = "decoder"
    d_model: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 4
    d_ff: int = 176
    rope_theta: float = 10000.0
    tie_embeddings: bool = True


@dataclass
class LoraConfig:
    """Adapters (arXiv:2106.09685) on the layers whose name ends in one of `target_modules`: W + (alpha / rank) B A.

    Members of a stack may differ in `rank`, up to the `max_rank` that they share, and in `alpha`.
    """

    rank: int = 8
    alpha: float = 16.0
    max_rank: int = 16
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])


class Training(StrEnum):
    """What of a Hugging Face model is trained: adapters beside its frozen weights (`lora`), or all of it (`full`)."""

    lora = "lora"
    full = "full"


@dataclass
class HfModelConfig:
    """A causal language model of Hugging Face.

    `path` is a folder with its `config.json`, safetensors and tokenizer, or a name on the hub, which is looked up where
    the study is composed. `dtype`, of its weights, is `float32` or `bfloat16`; adapters are float32 beside either.
    `attention`: `sdpa` or `eager`. `gradient_checkpointing` keeps each layer's input only and computes the rest again.
    `chat_template`: `auto` reads a prompt as a user's message where the tokenizer has a template, `none` as it stands.
    `lora` is for `training=lora`. Code that comes with a model is never run, pickled weights are never read.
    """

    name: str = "hf"
    path: str = ""
    training: Training = Training.lora
    dtype: str = "float32"
    attention: str = "sdpa"
    gradient_checkpointing: bool = False
    chat_template: str = "auto"
    lora: LoraConfig = field(default_factory=LoraConfig)


AnyModelConfig = ModelConfig | HfModelConfig
MODELS: Mapping[str, type[AnyModelConfig]] = {"decoder": ModelConfig, "hf": HfModelConfig}
"""By name: what `model=` can be."""


@dataclass
class SplitConfig:
    """How many problems each split holds; the RL prompts are the rest. No problem is in two splits, but for
    `supervised`, which RL may also use as prompts when `rl_includes_supervised` is set.

    supervised: prompts with reference answers, for `sft`. dev: the `eval/*` series, thresholds and the choice of
    winners. test: held out for the number that is reported at the end.
    """

    supervised: int = 400
    dev: int = 200
    test: int = 400
    rl_includes_supervised: bool = True


@dataclass
class RewardConfig:
    """What a completion's accuracy (right or not) and its keeping to the answer format weigh in its reward."""

    accuracy: float = 1.0
    format: float = 0.0


@dataclass
class TaskConfig:
    """Prompts with a verifier.

    source `reasoning_gym`: `dataset` is one of its data sets, `options` its parameters, `size` how many problems are
    drawn (duplicates are dropped), `prompt` a `str.format` template over the entry (`{question}`,
    `{metadata[expression]}`); spaces are dropped when `strip_spaces`. source `jsonl`: `path` is a file with an object
    with `prompt` and `answer` per line, and `verifier` is what the reward is by: `exact` match, or `last_number`, the
    last number of an answer (GSM8K). `answer_format`: `plain`, `reversed` (the answer's characters in reverse order:
    the units come first, as in column addition), or `cot` (`<think>...</think><answer>...</answer>`, of which the
    verifier sees what stands in the answer). `commutative` marks two-operand problems in which a+b and b+a are one
    problem. A completion is right when the verifier scores it >= `reward_threshold`. `loader` is the
    `package.module:function` that reads the task from (config, cache folder, config of the model whose tokens count).

    curriculum: levels `{until: 800, options: {max_digits: 1}}` in order: for the first so many problems that a stage
    takes (steps x problems a step), it trains on those of `options`, changed by the level's. After the last level, and
    in `dev` and `test` always, they are the task's own.
    """

    name: str = "addition"
    loader: str = "experiments.tasks:load_task"
    verifier: str = "exact"
    source: str = "reasoning_gym"
    dataset: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    size: int = 6000
    seed: int = 0
    prompt: str = "{question}"
    strip_spaces: bool = False
    answer_format: str = "plain"
    commutative: bool = False
    reward_threshold: float = 1.0
    reward: RewardConfig = field(default_factory=RewardConfig)
    curriculum: list[Any] = field(default_factory=list)
    path: str = ""
    max_prompt_tokens: int = 64
    max_answer_tokens: int = 8
    split: SplitConfig = field(default_factory=SplitConfig)


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


@dataclass
class EvaluationConfig:
    """Greedy decoding, exact match. `eval/accuracy` is logged every `every_steps` optimizer steps (and at the first
    and last) on the dev split; the last checkpoint is measured once on the test split."""

    every_steps: int = 20
    batch_size: int = 256
    timed_answers: int = 16


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
class StageConfig:
    """All that a stage run needs to know about training."""

    algorithm: AlgorithmConfig
    optimizer: OptimizerConfig
    model: AnyModelConfig
    task: TaskConfig
    deepspeed: DeepSpeedConfig
    evaluation: EvaluationConfig
    seed: int = 0


ALGORITHMS: Mapping[str, type[AlgorithmConfig]] = {
    "sft": SftConfig,
    **dict.fromkeys(("grpo", "dapo", "gspo", "rloo"), GrpoConfig),
    **dict.fromkeys(("rejection_sft", "distill"), RejectionSftConfig),
    "dpo": DpoConfig,
}
"""By name. Those that share a config are one algorithm with other options, so that a study tells them apart."""


def decay_steps(optimizer: Mapping[str, Any], steps: int) -> int:
    """How many of a stage's `steps` its schedule `wsd` decays over, at least one. `optimizer`: an `OptimizerConfig` as
    plain data."""
    return int(optimizer["decay_steps"]) or max(1, round(optimizer["decay_fraction"] * steps))


def stage_config(data: Mapping[str, Any]) -> StageConfig:
    """Typed view of `Stage.config`. Raises KeyError/TypeError for data that `orchestrator.config` did not validate."""
    algorithm = data["algorithm"]
    return StageConfig(
        algorithm=_build(ALGORITHMS.get(algorithm["name"], AlgorithmConfig), algorithm),
        optimizer=_build(OptimizerConfig, data["optimizer"]),
        model=model_config(data["model"]),
        task=_build(TaskConfig, data["task"]),
        deepspeed=_build(DeepSpeedConfig, data["deepspeed"]),
        evaluation=_build(EvaluationConfig, data["evaluation"]),
        seed=int(data["seed"]),
    )


def model_config(data: Mapping[str, Any]) -> AnyModelConfig:
    """Typed view of the `model` of a `Stage.config`; a decoder where it has no name. Raises as `stage_config` does."""
    return _build(MODELS[data.get("name", "decoder")], data)


def _build(cls: type[T], data: Mapping[str, Any]) -> T:
    hints = get_type_hints(cls)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    unknown = set(data) - known
    if unknown:
        raise TypeError(f"{cls.__name__} has no field {sorted(unknown)[0]!r}")
    values: dict[str, Any] = {}
    for name, value in data.items():
        hint = hints[name]
        if is_dataclass(hint) and isinstance(hint, type):
            values[name] = _build(hint, value)
        elif isinstance(hint, type) and issubclass(hint, StrEnum):
            values[name] = hint(value)
        else:
            values[name] = value
    return cls(**values)
