"""Which stages may be members of one stack: equal in all that gives tensors their shapes, free in numbers.

The planner, which forms stacks, and the worker, which trains them, read it here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from orchestrator.schema.training import ALGORITHMS, RolloutEngineName, StageConfig, Training

FREE = frozenset(
    {
        "seed",
        "optimizer",
        "deepspeed.gradient_clipping",
        "evaluation",
        "rollout.max_rows",
        "model.lora.rank",
        "model.lora.alpha",
        "algorithm.max_steps",
        "algorithm.stop_at_accuracy",
        "algorithm.temperature",
        "algorithm.clip_low",
        "algorithm.clip_high",
        "algorithm.kl_weight",
        "algorithm.aggregation",
        "algorithm.importance_level",
        "algorithm.baseline",
        "algorithm.advantage_scale",
        "algorithm.max_sampling_rounds",
        "algorithm.overlong_buffer",
        "algorithm.mask_truncated",
        "algorithm.length_penalty",
        "algorithm.sampling",
        "algorithm.fresh",
        "algorithm.beta",
        "algorithm.label_smoothing",
    }
)
"""Fields, or groups of them, in which the members of a stack may differ. All others make up the key."""

REQUIRED: Mapping[str, Any] = {
    "deepspeed.zero_optimization.stage": 0,
    "deepspeed.zero_optimization.offload_optimizer.device": "none",
    "deepspeed.gradient_accumulation_steps": 1,
    "deepspeed.bf16.enabled": False,
}
"""What a stage needs in order to be fused at all. ZeRO cuts one flat buffer without regard for members."""


def fusion_key(config: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted name in which the members of a stack are equal, of a stage's config as plain data.

    Raises ValueError for a stage that cannot be fused: it names the field and the value that would do.
    """
    fields = _flat(config)
    for name, value in REQUIRED.items():
        if fields[name] != value:
            raise ValueError(f"{name}={fields[name]}: only stages with {value} can be fused; run it alone")
    if fields.get("model.training", Training.lora) != Training.lora:
        raise ValueError("model.training=full: only adapters over one base (lora) can be fused; run it alone")
    if fields.get("rollout.engine", RolloutEngineName.builtin) != RolloutEngineName.builtin:
        raise ValueError("rollout.engine=vllm: only stages with builtin can be fused; run it alone")
    if config["deepspeed"]["extra"]:
        raise ValueError(
            f"deepspeed.extra={config['deepspeed']['extra']}: a stage with extras is not fused; run it alone"
        )
    fields["algorithm.name"] = _kind(fields["algorithm.name"])
    return {name: value for name, value in fields.items() if not _is_free(name)}


def require_one_key(configs: Sequence[StageConfig]) -> None:
    """Raises ValueError, naming the field, unless all configs can be members of one stack."""
    first = fusion_key(asdict(configs[0]))
    for config in configs[1:]:
        other = fusion_key(asdict(config))
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                raise ValueError(f"{name}={other.get(name)!r}: the stack's members have {first.get(name)!r}")


def _kind(algorithm: str) -> str:
    """The first name of those that are one algorithm with other options, which may share a stack."""
    schema = ALGORITHMS.get(algorithm)
    return next((name for name, other in ALGORITHMS.items() if other is schema), algorithm)


@cache  # there are as many names as fields, and every member asks for all of them
def _is_free(name: str) -> bool:
    return any(name == free or name.startswith(f"{free}.") for free in FREE)


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, by dotted names; an empty dict is a value."""
    out: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping) and value:
            out.update(_flat(value, f"{prefix}{name}."))
        else:
            out[f"{prefix}{name}"] = value
    return out
