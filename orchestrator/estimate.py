"""What a stage will ask of its devices, from first principles, and when a study will end, from what has been seen."""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.schema import Allocation, Demand, DeviceKind, Stage, Trial
from orchestrator.schema.training import ModelConfig, StageConfig, stage_config

# Resident memory of a process that has imported torch and deepspeed and set up an engine, before any weights; on CUDA
# the context and the libraries' workspaces. Measured with `ps` on a bundle of the default study (0.75 GB) and rounded
# up; the CUDA figure has not been measured.
PROCESS_BYTES = {DeviceKind.CPU: 1_000_000_000, DeviceKind.CUDA: 800_000_000}
# Characters that the tokenizer knows, rounded up.
_VOCABULARY = 128


def parameter_count(model: ModelConfig, vocabulary: int = _VOCABULARY) -> int:
    """Parameters of the compact decoder: embeddings, and per layer attention, SwiGLU and two norms."""
    head_width = model.d_model // model.heads
    attention = model.d_model * head_width * (2 * model.heads + 2 * model.kv_heads)
    feed_forward = 3 * model.d_model * model.d_ff
    embeddings = vocabulary * model.d_model * (1 if model.tie_embeddings else 2)
    return embeddings + model.layers * (attention + feed_forward + 2 * model.d_model) + model.d_model


def stage_memory_bytes(stage: StageConfig, kind: DeviceKind, world_size: int = 1) -> int:
    """Device memory of one process of a stage [bytes], an upper estimate.

    Weights, gradients and AdamW states by ZeRO stage (arXiv:1910.02054 section 3: 2/4 + 2/4 + 12 bytes a parameter,
    states divided by the processes from stage 1, gradients from 2, weights from 3), activations without checkpointing
    (arXiv:2205.05198 eq. 2, 34 s b h bytes a layer in half precision plus the attention scores), and the logits.
    """
    parameters = parameter_count(stage.model)
    width = 2 if stage.deepspeed.bf16.enabled else 4
    zero = stage.deepspeed.zero_optimization.stage
    states = (12 if stage.deepspeed.bf16.enabled else 8) * parameters / (world_size if zero >= 1 else 1)
    gradients = width * parameters / (world_size if zero >= 2 else 1)
    weights = width * parameters / (world_size if zero >= 3 else 1)
    sequences = _sequences(stage) / world_size / stage.deepspeed.gradient_accumulation_steps
    length = stage.task.max_prompt_tokens + stage.task.max_answer_tokens
    activations = sequences * length * stage.model.layers * (17 * stage.model.d_model + stage.model.heads * length)
    logits = 3 * sequences * length * _VOCABULARY
    return int(PROCESS_BYTES[kind] + states + gradients + weights + width * (activations + logits))


def _sequences(stage: StageConfig) -> int:
    """Sequences in one optimizer step, or in one batch of an evaluation where that is more."""
    algorithm = stage.algorithm
    per_step = getattr(algorithm, "batch_size", 0) or (
        getattr(algorithm, "prompts_per_step", 1) * getattr(algorithm, "group_size", 1)
    )
    return max(int(per_step), stage.evaluation.batch_size)


def stage_demand(stage: Stage, cluster: Mapping[str, Any], kind: DeviceKind) -> Demand:
    """What a stage asks for under `cluster` (a resolved `ClusterConfig`)."""
    devices = int(cluster["devices_per_trial"])
    return Demand(
        devices=devices,
        share=float(cluster["share_per_trial"]),
        memory_bytes=stage_memory_bytes(stage_config(stage.config), kind, devices),
    )


def remaining_s(trials: Sequence[Trial], allocations: Sequence[Allocation], now: float, devices: int) -> float | None:
    """Seconds until the last trial of a study ends, or None before anything can be said.

    The device-seconds per budgeted step seen so far, times the steps that are left, over the devices. Each algorithm
    has its own rate where it has run, the mean of all otherwise.
    """
    by_key: dict[str, tuple[str, int]] = {}
    for trial in trials:
        for stage in trial.variant.stages:
            by_key[stage.key] = (str(stage.config.get("algorithm", {}).get("name", stage.name)), stage.budget_steps)
    done_steps: dict[str, float] = {}
    held_s: dict[str, float] = {}
    progress: dict[str, float] = {}
    for trial in trials:
        if not trial.state.terminal:
            key = trial.variant.stages[trial.stage_index].key
            progress[key] = max(progress.get(key, 0.0), trial.progress)
    for allocation in allocations:
        name, steps = by_key[allocation.stage_key]
        done = progress.get(allocation.stage_key, 0.0) if allocation.closed_at is None else 1.0
        done_steps[name] = done_steps.get(name, 0.0) + done * steps
        held_s[name] = held_s.get(name, 0.0) + allocation.device_seconds(now)
    if not sum(done_steps.values()) or not devices:
        return None
    mean = sum(held_s.values()) / sum(done_steps.values())
    left: dict[str, float] = {}
    for trial in trials:
        if not trial.state.terminal:
            for position, stage in enumerate(trial.variant.stages[trial.stage_index :]):
                # Trials that share a stage disagree on its progress: only its leader hears of it.
                fraction = 1.0 - trial.progress if position == 0 else 1.0
                left[stage.key] = min(left.get(stage.key, 1.0), fraction)
    total = 0.0
    for key, fraction in left.items():
        name, steps = by_key[key]
        rate = held_s[name] / done_steps[name] if done_steps.get(name) else mean
        total += fraction * steps * rate
    return total / devices
