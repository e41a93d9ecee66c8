"""What a stage will ask of its devices, from first principles."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from orchestrator.schema import Demand, DeviceKind, Stage
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
    devices, share = int(cluster["devices_per_trial"]), float(cluster["share_per_trial"])
    stated = float(cluster.get("memory_per_trial_gib", 0.0))
    memory_bytes = int(stated * 2**30) or _memory_bytes(json.dumps(_shape(stage.config)), kind, devices)
    return Demand(
        devices=devices,
        share=share,
        memory_bytes=memory_bytes,
        # A core that stands in for a GPU is the core that its process computes on.
        cpus=devices * share if kind is DeviceKind.CPU else float(devices),
        host_memory_bytes=devices * (memory_bytes if kind is DeviceKind.CPU else PROCESS_BYTES[DeviceKind.CPU]),
    )


def _shape(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a stage's config that its memory depends on: the thousands of variants of a sweep share a few."""
    algorithm = {name: value for name, value in config["algorithm"].items() if name != "max_steps"}
    task = {name: config["task"][name] for name in ("max_prompt_tokens", "max_answer_tokens")}
    return {**config, "algorithm": algorithm, "task": task, "optimizer": {}, "seed": 0}


@lru_cache(maxsize=1024)
def _memory_bytes(shape: str, kind: DeviceKind, devices: int) -> int:
    return stage_memory_bytes(stage_config(json.loads(shape)), kind, devices)
