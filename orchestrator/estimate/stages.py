"""What one process of a stage takes, by what it is for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.estimate.hf import HfSizes
from orchestrator.estimate.memory import (
    FP32,
    Shape,
    ZeroPlan,
    decoding_bytes,
    learning_bytes,
    model_states,
    rounds_bytes,
)
from orchestrator.schema import CUDA_CONTEXT_BYTES, DeviceKind
from orchestrator.schema.decoder_sizes import cached_width, chosen_experts_pay, parameter_count
from orchestrator.schema.training import (
    AttentionKind,
    DpoConfig,
    FeedForwardKind,
    GrpoConfig,
    HfModelConfig,
    ModelConfig,
    PredictionKind,
    QuantizationAwareSftConfig,
    RejectionSftConfig,
    SamplingConfig,
    SftConfig,
    StageConfig,
    Training,
)

# What a process has to itself before any weights. A core that stands in for a GPU: 50 MB were the peak of stages with a
# model of 4,000 parameters, forked from a server that had imported all they use.
PROCESS_BYTES = {DeviceKind.CPU: 70_000_000, DeviceKind.CUDA: CUDA_CONTEXT_BYTES}
# The same for a process that imports torch and deepspeed itself, and on the host for one that uses a GPU: 0.75 GB were
# measured for the imports; what CUDA adds was not.
ALONE_BYTES = 1_000_000_000
# What ZeRO's collectives take beside, in each process of a gang, by stage: measured over gloo with two processes and
# 0.8 to 10 million parameters (at most 25 MB, and 115 MB for stage 3, whatever the size). NCCL was not measured.
GANG_BYTES = {0: 0, 1: 45_000_000, 2: 45_000_000, 3: 140_000_000}
# What allocators lose: between the states, and between the tensors that come and go at every step. Largest excess over
# the formulas in twelve stages of 4,000 to 19 million parameters under glibc's malloc: 7 % and 25 %. CUDA's allocator
# rounds to 2 MiB and was not measured.
STATES_LOSS, STEPS_LOSS = 0.1, 0.3
# Characters that the tokenizer knows, rounded up.
_VOCABULARY = 128
# `experiments.models.shared_prompt.SHARED_ROWS_MAX`; a test holds the two together.
SHARED_ROWS_MAX = 512


# What importing transformers takes beside, where the process it was forked from has not: 192 to 200 MB were measured in
# stages of a model of 5,000 parameters.
_TRANSFORMERS_BYTES = 220_000_000
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A model as memory sees it: `trained` parameters beside `frozen` ones of `width` bytes, which each process has
    whole. `width` is also that of activations. `process`: bytes that its libraries take. `routed`: a model whose
    experts are computed for their own tokens only, where that pays."""

    shape: Shape
    trained: int
    width: int
    frozen: int = 0
    checkpointing: bool = False
    scores: int = 0
    process: int = 0
    routed: ModelConfig | None = None

    def shape_at(self, rows: float, *, learning: bool) -> Shape:
        """What so many token rows are computed with."""
        if self.routed is None or not chosen_experts_pay(self.routed, int(rows), learning=learning):
            return self.shape
        return shape_of(self.routed, chosen_alone=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes of one process of a stage, by what they are for. Learning, rollout and evaluation take turns.

    `copies`: of the weights: a KL reference, rounded ones, decoding with ZeRO 3. `lost`: between what allocators hand
    out. `host_bytes` lie in host memory; where a core stands in for a GPU the device's memory is the host's, and they
    are counted there. `parkable_bytes` are on the device only because they are needed there again: Adam's moments,
    which a GPU's process can have in host memory between steps. The others: see `memory.ModelStates`.
    """

    process: float
    weights: float
    gradients: float
    optimizer: float
    gathered: float
    buckets: float
    passing: float
    copies: float
    learning: float
    rollout: float
    evaluation: float
    host_bytes: int
    parkable_bytes: int

    @property
    def lost(self) -> float:
        """What allocators lose."""
        return STATES_LOSS * self._states + STEPS_LOSS * self._turn

    @property
    def device_bytes(self) -> int:
        """The most that lies on the device at one time."""
        return int(self.process + self._states + self._turn + self.lost)

    @property
    def _states(self) -> float:
        lasting = self.weights + self.gradients + self.optimizer + self.copies
        return lasting + self.gathered + self.buckets + self.passing

    @property
    def _turn(self) -> float:
        return max(self.learning, self.rollout, self.evaluation)


def stage_footprint(
    stage: StageConfig,
    kind: DeviceKind,
    world_size: int = 1,
    *,
    preloaded: bool = True,
    policy: StageConfig | None = None,
) -> Footprint:
    """An upper estimate: prompts and answers are as long as the task allows, and every group is learned from.

    `preloaded`: its process is forked from one that has imported what it uses, and shares these pages. `policy`: the
    stage whose output it samples from, if it does; None: one of its own model.
    """
    plan = zero_plan(stage, world_size)
    on_cpu = kind is DeviceKind.CPU
    sizes = sizes_of(stage, plan, routes=on_cpu)
    sampled = sizes if policy is None else sizes_of(policy, plan, routes=on_cpu)
    states = model_states(sizes.trained, plan, whole_buckets=not on_cpu)
    own = PROCESS_BYTES[kind] if preloaded or not on_cpu else ALONE_BYTES
    return Footprint(
        process=own + sizes.process + (GANG_BYTES[plan.stage] if world_size > 1 else 0),
        weights=states.weights + sizes.width * sizes.frozen,
        gradients=states.gradients,
        # Offloaded to the host is where a CPU's "device" is.
        optimizer=states.optimizer + (states.host if on_cpu else 0.0),
        gathered=states.gathered,
        buckets=states.buckets,
        passing=states.passing,
        copies=FP32 * ((sizes.trained if plan.stage == 3 else 0) + _another(stage, sizes, sampled))
        + sizes.width * (sizes.trained if isinstance(stage.algorithm, QuantizationAwareSftConfig) else 0)
        + _another_base(stage, policy, sampled),
        learning=_learning(stage, plan, sizes) + _rounds(stage, plan),
        rollout=_rollout(stage, plan, sizes if _sampling(stage) is None else sampled) + _rounds(stage, plan),
        evaluation=_evaluation(stage, plan, sizes),
        host_bytes=int(ALONE_BYTES + states.host),
        parkable_bytes=0 if on_cpu else int(states.moments),
    )


def stage_memory_bytes(stage: StageConfig, kind: DeviceKind, world_size: int = 1, *, preloaded: bool = True) -> int:
    """Device memory of one process of a stage [bytes], an upper estimate."""
    return stage_footprint(stage, kind, world_size, preloaded=preloaded).device_bytes


def zero_plan(stage: StageConfig, world_size: int) -> ZeroPlan:
    """What DeepSpeed will be told, `deepspeed.extra` over the rest."""
    zero, extra = stage.deepspeed.zero_optimization, dict(stage.deepspeed.extra.get("zero_optimization", {}))
    half = bool(_over(stage.deepspeed.extra, "bf16", "enabled", stage.deepspeed.bf16.enabled))
    number = int(extra.get("stage", zero.stage))
    overlap = extra.get("overlap_comm", number == 3)
    return ZeroPlan(
        stage=number,
        world_size=world_size,
        half=half,
        offload_optimizer=_over(extra, "offload_optimizer", "device", zero.offload_optimizer.device) != "none",
        offload_parameters=_over(extra, "offload_param", "device", "none") != "none",
        bucket=int(extra.get("reduce_bucket_size", ZeroPlan().bucket)),
        buckets=2 if overlap and number < 3 else 1,
    )


def shape_of(model: ModelConfig, *, chosen_alone: bool = False) -> Shape:
    """The sizes that memory follows from; of experts all, or `chosen_alone`."""
    head_width, wide, beside = model.d_model // model.heads, model.d_ff, 0
    latent = model.attention == AttentionKind.mla
    if latent:
        # Queries' and keys' rotated parts, before and after; the latents, before and after their norms.
        beside += 4 * model.heads * model.rope_dim + 3 * (model.kv_rank + model.rope_dim + model.query_rank)
    if model.ffn == FeedForwardKind.moe:
        # Each holds what it does, and a second time its token, or where all are computed what they do, gated; the
        # router's values are there about ten times.
        count = model.shared_experts + (model.experts_per_token if chosen_alone else model.experts)
        wide = count * model.d_expert
        beside += (count * model.d_model if chosen_alone else wide) + 10 * model.experts
    return Shape(
        d_model=model.d_model,
        layers=model.layers,
        heads=model.heads,
        kv_width=model.heads * head_width if latent else model.kv_heads * head_width,
        d_ff=wide,
        vocabulary=_VOCABULARY,
        cached_width=cached_width(model),
        beside=beside,
        narrow_end=not latent and model.ffn != FeedForwardKind.moe,
    )


def sizes_of(stage: StageConfig, plan: ZeroPlan, *, routes: bool = False) -> Sizes:
    """The sizes of a stage's model; of a Hugging Face one from its `config.json`, which has to be there. `routes`: its
    device is one that computes the chosen experts alone."""
    model = stage.model
    if not isinstance(model, HfModelConfig):
        return Sizes(
            shape=shape_of(model),
            trained=parameter_count(model, _VOCABULARY),
            width=plan.width,
            # The kernels that recompute scores want keys and values of one width.
            scores=1 if model.attention == AttentionKind.mla else 0,
            routed=model if routes and model.ffn == FeedForwardKind.moe else None,
        )
    published, eager = HfSizes.at(Path(model.path)), model.attention == "eager"
    checkpointing, process = model.gradient_checkpointing, _TRANSFORMERS_BYTES
    if model.training == Training.full:
        return Sizes(
            shape=published.shape,
            trained=published.parameters,
            width=plan.width,
            checkpointing=checkpointing,
            scores=2 if eager else 0,
            process=process,
        )
    # A stack has all its members at the largest rank.
    adapters = published.adapter_parameters(model.lora.target_modules, model.lora.max_rank)
    return Sizes(
        shape=published.shape,
        trained=adapters,
        frozen=published.parameters,
        width=_DTYPE_BYTES[model.dtype],
        checkpointing=checkpointing,
        scores=2 if eager else 0,
        process=process,
    )


def _learning(stage: StageConfig, plan: ZeroPlan, sizes: Sizes) -> float:
    """One micro-batch; a group whose prompt is shared is one sequence."""
    prompts, group = _items(stage)
    prompts = _part(prompts, plan.world_size * stage.deepspeed.gradient_accumulation_steps)
    answer = stage.task.max_answer_tokens
    modules = _learned_modules(stage)
    # Where further tokens are learned prompts are repeated.
    shared = group * (answer - 1) <= SHARED_ROWS_MAX and not modules
    batch, completions = (prompts, group) if shared else (prompts * group, 1)
    rows = _prompt_rows(stage) + completions * (answer - 1)
    predicted = prompts * group * answer
    return learning_bytes(
        sizes.shape_at(batch * rows, learning=True),
        batch,
        rows,
        sizes.width,
        predicted=predicted,
        checkpointing=sizes.checkpointing,
        scores=sizes.scores,
        modules=modules,
    )


def _learned_modules(stage: StageConfig) -> int:
    """How many modules for further tokens it trains."""
    model, algorithm = stage.model, stage.algorithm
    if isinstance(model, HfModelConfig) or model.prediction.kind == PredictionKind.next_token:
        return 0
    weight = model.prediction.weight if isinstance(algorithm, SftConfig) else 0.0
    if isinstance(algorithm, GrpoConfig):
        weight = model.prediction.rl_weight
    return model.prediction.depth if weight else 0


def _rounds(stage: StageConfig, plan: ZeroPlan) -> float:
    if not isinstance(stage.algorithm, GrpoConfig):
        return 0.0
    prompts, group = _items(stage)
    completions = _part(prompts, plan.world_size) * group
    return rounds_bytes(stage.algorithm.max_sampling_rounds, completions, stage.task.max_answer_tokens)


def _rollout(stage: StageConfig, plan: ZeroPlan, sizes: Sizes) -> float:
    sampling = _sampling(stage)
    if sampling is not None:  # of as many prompts in every process
        prompts, group = sampling.batch_size, sampling.per_prompt
    elif isinstance(stage.algorithm, GrpoConfig):
        prompts, group = _items(stage)
        prompts = _part(prompts, plan.world_size)
    else:
        return 0.0
    answer = stage.task.max_answer_tokens
    return decoding_bytes(
        sizes.shape_at(max(prompts * _prompt_rows(stage), prompts * group), learning=False),
        prompts,
        _prompt_rows(stage),
        group,
        answer,
        sizes.width,
        shared=group * answer <= SHARED_ROWS_MAX,
    )


def _evaluation(stage: StageConfig, plan: ZeroPlan, sizes: Sizes) -> float:
    split = stage.task.split
    problems = min(stage.evaluation.batch_size, _part(max(split.dev, split.test), plan.world_size))
    answer = stage.task.max_answer_tokens
    shape = sizes.shape_at(problems * _prompt_rows(stage), learning=False)
    return decoding_bytes(shape, problems, _prompt_rows(stage), 1, answer, sizes.width, shared=True)


def _items(stage: StageConfig) -> tuple[int, int]:
    """Prompts of one optimizer step, and completions of each."""
    algorithm = stage.algorithm
    if isinstance(algorithm, GrpoConfig):
        return algorithm.prompts_per_step, algorithm.group_size
    if isinstance(algorithm, DpoConfig):
        return algorithm.batch_size, 2
    return int(getattr(algorithm, "batch_size", 1)), 1


def _prompt_rows(stage: StageConfig) -> int:
    return stage.task.max_prompt_tokens + 1  # and the token that begins it


def _part(count: int, parts: int) -> int:
    """The largest of `parts` parts that `count` things are divided into."""
    return -(-count // parts)


def _another(stage: StageConfig, own: Sizes, sampled: Sizes) -> int:
    """Parameters of the model that it holds beside the one that it trains: the policy that it samples from, which is
    gone before a reference of preferences is there, or the reference of a KL."""
    if _sampling(stage) is not None:
        return sampled.trained
    return own.trained if isinstance(stage.algorithm, GrpoConfig) and stage.algorithm.kl_weight != 0.0 else 0


def _another_base(stage: StageConfig, policy: StageConfig | None, sampled: Sizes) -> int:
    """The frozen weights under a teacher's adapters, where its student is another model [bytes]."""
    same = policy is None or getattr(policy.model, "path", "") == getattr(stage.model, "path", "")
    return 0 if same else sampled.width * sampled.frozen


def _sampling(stage: StageConfig) -> SamplingConfig | None:
    """How it samples from the stage before, if it does."""
    return stage.algorithm.sampling if isinstance(stage.algorithm, RejectionSftConfig | DpoConfig) else None


def _over(extra: Mapping[str, Any], group: str, name: str, default: Any) -> Any:
    found = extra.get(group)
    return found.get(name, default) if isinstance(found, Mapping) else default
