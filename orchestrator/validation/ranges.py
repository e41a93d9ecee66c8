"""What numbers and choices a resolved config accepts, and what would do instead: tables, and how they are applied."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.config import ConfigError
from orchestrator.schema.training import ALGORITHMS, GrpoConfig, Weights
from orchestrator.stopping.rungs import GRACE_UNITS, RESOURCES

Check = tuple[str, Callable[[Any], bool], str]
"""A path inside a part of the config, what it accepts, and what would do."""


def _at_least(low: float) -> Callable[[Any], bool]:
    return lambda value: value >= low


def _positive(value: Any) -> bool:
    return bool(value > 0)


def _fraction(value: Any) -> bool:
    return bool(0 < value <= 1)


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


_COUNT = (_at_least(1), "use a whole number of at least 1")


_NON_NEGATIVE = (_at_least(0), "use 0 or more")


OVERSUBSCRIPTION: tuple[Callable[[Any], bool], str] = (
    lambda value: bool(1 <= value <= 100),
    "use 1 (a device is promised once) to 100, such as 1.25",
)


_QUANTIZATION_CHECKS: tuple[Check, ...] = (
    ("weights", _one_of(*Weights), f"use {', '.join(Weights)}"),
    ("kv_bits", _one_of(0, 6, 8), "use 8 or 6 bits, or 0 for a cache as it is computed"),
)


PART_CHECKS: Mapping[str, tuple[Check, ...]] = {
    "task": (
        ("size", *_COUNT),
        ("source", _one_of("reasoning_gym", "jsonl"), "use reasoning_gym or jsonl"),
        ("answer_format", _one_of("plain", "reversed", "cot"), "use plain, reversed or cot"),
        ("verifier", _one_of("exact", "last_number"), "use exact or last_number"),
        ("reward_threshold", _fraction, "use a fraction above 0 and at most 1"),
        ("reward.accuracy", _positive, "use a positive weight such as 1: the format alone solves no problem"),
        ("reward.format", *_NON_NEGATIVE),
        ("max_prompt_tokens", *_COUNT),
        ("max_answer_tokens", _at_least(2), "use at least 2: one token and the end mark"),
        ("split.supervised", *_NON_NEGATIVE),
        ("split.dev", *_COUNT),
        ("split.test", *_COUNT),
    ),
    "deepspeed": (
        ("zero_optimization.stage", _one_of(0, 1, 2, 3), "use a ZeRO stage: 0, 1, 2 or 3"),
        ("zero_optimization.offload_optimizer.device", _one_of("none", "cpu"), "use none or cpu"),
        ("gradient_accumulation_steps", *_COUNT),
        ("gradient_clipping", _at_least(0), "use 0 (off) or a positive norm such as 1.0"),
    ),
    "evaluation": (
        ("every_steps", *_COUNT),
        ("batch_size", *_COUNT),
        ("timed_answers", *_COUNT),
        ("load", _at_least(0), "use 0 to time one request after the other only, or how many come at once"),
    ),
    "quantization": _QUANTIZATION_CHECKS,
    "report": (("patience_s", lambda v: v is None or v > 0, "use a positive number of seconds, or null for ever"),),
    "cluster": (
        ("devices", _at_least(0), "use 0 for all devices, or how many to take"),
        ("devices_per_trial", *_COUNT),
        ("share_per_trial", _fraction, "use a fraction of a device, above 0 and at most 1"),
        ("memory_per_trial_gib", _at_least(0), "use 0 to have it estimated, or a number of GiB such as 20"),
        ("oversubscription", *OVERSUBSCRIPTION),
        ("max_attempts", *_COUNT),
        ("max_memory_raises", *_NON_NEGATIVE),
        ("max_slowdown_per_trial", lambda v: v == 0 or v >= 1, "use 0 for any slowdown, or at least 1, such as 1.5"),
    ),
    "ordering": (("max_wait_s", _positive, "use a positive number of seconds, such as 21600"),),
    "preemption": (
        ("max_preemptions", *_NON_NEGATIVE),
        ("min_hold_s", *_NON_NEGATIVE),
    ),
    "defragmentation": (
        ("max_moves", *_NON_NEGATIVE),
        ("min_hold_s", *_NON_NEGATIVE),
        ("restart_s", *_NON_NEGATIVE),
        ("margin", _at_least(1), "use at least 1: what is saved must be worth what is lost"),
    ),
    "cache": (
        ("max_gib", _at_least(0), "use 0 for any, or a number of GiB such as 200"),
        ("min_age_s", _at_least(60), "use at least 60: what was just found to be there must stay until it is used"),
        ("every_s", _positive, "use a positive number of seconds, such as 600"),
    ),
    "rollout": (
        ("max_rows", _at_least(0), "use 0 for any number, or how many completions are decoded together, such as 256"),
        ("memory_fraction", _fraction, "use the part of a device's memory that vLLM takes, such as 0.3"),
    ),
    "study": (("tenant", bool, "name a tenant, such as default"),),
}


MODEL_CHECKS: Mapping[str, tuple[Check, ...]] = {
    "decoder": (
        ("d_model", *_COUNT),
        ("layers", *_COUNT),
        ("heads", *_COUNT),
        ("kv_heads", *_COUNT),
        ("d_ff", *_COUNT),
        ("rope_theta", _positive, "use a positive number such as 10000"),
        ("kv_rank", *_COUNT),
        ("query_rank", _at_least(0), "use 0 for queries without a latent, or its width such as 32"),
        (
            "rope_dim",
            lambda v: v >= 2 and v % 2 == 0,
            "use an even number of at least 2: dimensions are rotated in pairs",
        ),
        ("d_expert", *_COUNT),
        ("shared_experts", _at_least(0), "use 0 for routed experts only, or a whole number such as 1"),
        ("experts", *_COUNT),
        ("experts_per_token", *_COUNT),
        ("bias_rate", *_NON_NEGATIVE),
        ("auxiliary_weight", *_NON_NEGATIVE),
        ("prediction.depth", _at_least(1), "use how many tokens beyond the next one are predicted, such as 1"),
        ("prediction.weight", _at_least(0), "use 0 to leave the modules untrained, or a weight such as 0.3"),
        ("prediction.rl_weight", _at_least(0), "use 0 to leave the modules as they are, or a weight such as 0.1"),
    ),
    "hf": (
        ("dtype", _one_of("float32", "bfloat16"), "use float32 or bfloat16"),
        # Completions that share a prompt need a mask, which flash attention has no place for.
        ("attention", _one_of("sdpa", "eager"), "use sdpa or eager; flash attention takes no mask of its caller's"),
        ("chat_template", _one_of("auto", "none"), "use auto or none"),
        ("lora.rank", *_COUNT),
        ("lora.alpha", _positive, "use a positive number such as 16"),
        ("lora.max_rank", *_COUNT),
    ),
}


OPTIMIZER_CHECKS: tuple[Check, ...] = (
    ("lr", _positive, "use a positive learning rate such as 1e-3"),
    ("beta1", lambda v: 0 <= v < 1, "use a number from 0 up to, not including, 1"),
    ("beta2", lambda v: 0 <= v < 1, "use a number from 0 up to, not including, 1"),
    ("eps", _positive, "use a small positive number such as 1e-8"),
    ("weight_decay", *_NON_NEGATIVE),
    ("warmup_steps", *_NON_NEGATIVE),
    ("decay_fraction", _fraction, "use a fraction above 0 and at most 1, such as 0.2"),
    ("decay_steps", _at_least(0), "use 0 for decay_fraction of all steps, or a number of steps"),
)


EVERY_ALGORITHM_CHECKS: tuple[Check, ...] = (("max_steps", *_COUNT),)


SEED_CHECKS: tuple[Check, ...] = (("seed", lambda v: 0 <= v < 2**31, "use a whole number from 0 to 2147483647"),)


_SFT_CHECKS: tuple[Check, ...] = (
    ("batch_size", *_COUNT),
    ("stop_at_accuracy", _fraction, "use an accuracy above 0; 1.0 never stops early"),
)


_SAMPLING_CHECKS: tuple[Check, ...] = (
    ("sampling.prompts", _at_least(0), "use 0 for all RL prompts, or how many"),
    ("sampling.per_prompt", *_COUNT),
    ("sampling.keep", *_COUNT),
    ("sampling.temperature", _positive, "use a positive temperature; sampling needs spread"),
    ("sampling.batch_size", *_COUNT),
)


_GRPO_CHECKS: tuple[Check, ...] = (
    ("prompts_per_step", *_COUNT),
    ("group_size", _at_least(2), "use at least 2: advantages compare a group's completions"),
    ("temperature", _positive, "use a positive temperature; sampling needs spread"),
    ("updates_per_rollout", *_COUNT),
    ("clip_low", lambda v: 0 < v <= 1, "use a fraction such as 0.2"),
    ("clip_high", _positive, "use a positive number such as 0.2"),
    ("kl_weight", *_NON_NEGATIVE),
    ("max_sampling_rounds", _at_least(1), "use 1 to sample once, or how many rounds may fill a batch, such as 4"),
    ("overlong_buffer", _at_least(0), "use 0 to punish no length, or a number of tokens below task.max_answer_tokens"),
    ("length_penalty", _at_least(0), "use 0 for none, or a weight such as 0.1"),
)


ALGORITHM_CHECKS: Mapping[str, tuple[Check, ...]] = {
    "sft": _SFT_CHECKS,
    "quantize": _QUANTIZATION_CHECKS,
    "quantization_aware_sft": (*_SFT_CHECKS, _QUANTIZATION_CHECKS[0]),
    **dict.fromkeys(("rejection_sft", "distill"), (*_SFT_CHECKS, *_SAMPLING_CHECKS)),
    "dpo": (
        ("batch_size", *_COUNT),
        ("beta", _positive, "use a positive number such as 0.1"),
        ("label_smoothing", lambda v: 0 <= v < 0.5, "use 0, or a fraction below 0.5"),
        *_SAMPLING_CHECKS,
    ),
    **dict.fromkeys((name for name, schema in ALGORITHMS.items() if schema is GrpoConfig), _GRPO_CHECKS),
}


# The knobs of packing policies, by their names.
PACKING_CHECKS: tuple[Check, ...] = (
    ("cpu_weight", lambda v: 0 <= v <= 1, "use a number from 0 (only devices count) to 1 (only cores do)"),
    ("popularity", _fraction, "use a fraction above 0 and at most 1, such as 0.95"),
    ("look_ahead", *_COUNT),
    ("hold", lambda v: v is None or v >= 0, "use null, or 0 or more"),
    ("spread", *_NON_NEGATIVE),
    ("tries", *_COUNT),
    ("limit_s", _positive, "use a positive number of seconds, such as 60"),
)


SEARCH_CHECKS: tuple[Check, ...] = (
    ("trials", *_COUNT),
    ("metric", lambda v: bool(v) and not v.startswith("accuracy"), "test problems choose nothing; use dev_accuracy"),
    ("direction", _one_of("maximize", "minimize"), "use maximize or minimize"),
    ("seed", lambda v: 0 <= v < 2**31, "use a whole number from 0 to 2147483647"),
    ("seeds", *_COUNT),
    ("ahead", _at_least(0), "use 0 for twice the devices, or how many trials shall wait"),
    ("startup", *_COUNT),
)


FUSION_CHECKS: tuple[Check, ...] = (
    ("max_width", *_COUNT),
    ("patience_s", *_NON_NEGATIVE),
)


# Of the stopping policies that stop somebody.
STOPPING_CHECKS: tuple[Check, ...] = (
    ("resource", _one_of(*RESOURCES), f"use {', '.join(RESOURCES)}"),
    ("min_resource", _positive, "use a positive number of units of stopping.resource, such as 1"),
    ("rung_factor", _at_least(2), "use at least 2"),
    ("reduction_factor", _at_least(2), "use at least 2, such as 3"),
    ("grace_unit", _one_of(*GRACE_UNITS), f"use {' or '.join(GRACE_UNITS)}"),
    ("min_trials", _at_least(2), "use at least 2: one is never behind"),
    ("confidence", lambda v: 0.5 <= v < 1, "use a number from 0.5 up to, not including, 1, such as 0.9"),
    ("finish_share", lambda v: 0 <= v <= 1, "use a fraction from 0 (none is finished) to 1, such as 0.1"),
    ("brackets", *_COUNT),
)


def apply(prefix: str, checks: tuple[Check, ...], part: Mapping[str, Any]) -> None:
    """Refuses the first value that its check doesn't accept; no number may be infinite or none."""
    for path, accepts, remedy in checks:
        value: Any = part
        for name in path.split("."):
            value = value[name]
        if not accepts(value) or (isinstance(value, float) and not math.isfinite(value)):
            raise ConfigError(prefix + path, value, remedy)
