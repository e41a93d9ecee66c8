"""The checks of a resolved variant config that run before any device is taken.

Every refusal is a `ConfigError` that names the field, the value and what would do.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_type_hints

from orchestrator.config import SCHEMAS, Config, ConfigError, TenantConfig
from orchestrator.hf_models import check_hf_model
from orchestrator.ordering import ORDERINGS
from orchestrator.packing import PACKINGS
from orchestrator.schema.training import (
    ALGORITHMS,
    MODELS,
    AlgorithmConfig,
    GrpoConfig,
    OptimizerConfig,
    Schedule,
    decay_steps,
)
from orchestrator.search import SEARCHES
from orchestrator.sharing.defragmentation import DEFRAGMENTATIONS
from orchestrator.sharing.preemption import PREEMPTIONS
from orchestrator.stopping import STOPPINGS
from orchestrator.stopping.rungs import GRACE_UNITS, RESOURCES
from orchestrator.tracking import TRACKERS

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

_PART_CHECKS: Mapping[str, tuple[Check, ...]] = {
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
    ),
    "cluster": (
        ("devices", _at_least(0), "use 0 for all devices, or how many to take"),
        ("devices_per_trial", *_COUNT),
        ("share_per_trial", _fraction, "use a fraction of a device, above 0 and at most 1"),
        ("memory_per_trial_gib", _at_least(0), "use 0 to have it estimated, or a number of GiB such as 20"),
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
    "study": (("tenant", bool, "name a tenant, such as default"),),
}

_MODEL_CHECKS: Mapping[str, tuple[Check, ...]] = {
    "decoder": (
        ("d_model", *_COUNT),
        ("layers", *_COUNT),
        ("heads", *_COUNT),
        ("kv_heads", *_COUNT),
        ("d_ff", *_COUNT),
        ("rope_theta", _positive, "use a positive number such as 10000"),
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

_OPTIMIZER_CHECKS: tuple[Check, ...] = (
    ("lr", _positive, "use a positive learning rate such as 1e-3"),
    ("beta1", lambda v: 0 <= v < 1, "use a number from 0 up to, not including, 1"),
    ("beta2", lambda v: 0 <= v < 1, "use a number from 0 up to, not including, 1"),
    ("eps", _positive, "use a small positive number such as 1e-8"),
    ("weight_decay", *_NON_NEGATIVE),
    ("warmup_steps", *_NON_NEGATIVE),
    ("decay_fraction", _fraction, "use a fraction above 0 and at most 1, such as 0.2"),
    ("decay_steps", _at_least(0), "use 0 for decay_fraction of all steps, or a number of steps"),
)

_EVERY_ALGORITHM_CHECKS: tuple[Check, ...] = (("max_steps", *_COUNT),)

_SEED_CHECKS: tuple[Check, ...] = (("seed", lambda v: 0 <= v < 2**31, "use a whole number from 0 to 2147483647"),)

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

_ALGORITHM_CHECKS: Mapping[str, tuple[Check, ...]] = {
    "sft": _SFT_CHECKS,
    **dict.fromkeys(("rejection_sft", "distill"), (*_SFT_CHECKS, *_SAMPLING_CHECKS)),
    "dpo": (
        ("batch_size", *_COUNT),
        ("beta", _positive, "use a positive number such as 0.1"),
        ("label_smoothing", lambda v: 0 <= v < 0.5, "use 0, or a fraction below 0.5"),
        *_SAMPLING_CHECKS,
    ),
    **dict.fromkeys((name for name, schema in ALGORITHMS.items() if schema is GrpoConfig), _GRPO_CHECKS),
}


_CHOICES: Mapping[str, Collection[str]] = {
    "ordering": ORDERINGS,
    "packing": PACKINGS,
    "fusion": ("auto", "off"),
    "phases": ("antiphase", "off"),
    "preemption": PREEMPTIONS,
    "defragmentation": DEFRAGMENTATIONS,
    "stopping": STOPPINGS,
    "search": SEARCHES,
    "tracking": TRACKERS,
}


# The knobs of packing policies, by their names.
_PACKING_CHECKS: tuple[Check, ...] = (
    ("cpu_weight", lambda v: 0 <= v <= 1, "use a number from 0 (only devices count) to 1 (only cores do)"),
    ("popularity", _fraction, "use a fraction above 0 and at most 1, such as 0.95"),
    ("look_ahead", *_COUNT),
    ("hold", lambda v: v is None or v >= 0, "use null, or 0 or more"),
    ("spread", *_NON_NEGATIVE),
    ("tries", *_COUNT),
    ("limit_s", _positive, "use a positive number of seconds, such as 60"),
)


_SEARCH_CHECKS: tuple[Check, ...] = (
    ("trials", *_COUNT),
    ("metric", lambda v: bool(v) and not v.startswith("accuracy"), "test problems choose nothing; use dev_accuracy"),
    ("direction", _one_of("maximize", "minimize"), "use maximize or minimize"),
    ("seed", lambda v: 0 <= v < 2**31, "use a whole number from 0 to 2147483647"),
    ("seeds", *_COUNT),
    ("ahead", _at_least(0), "use 0 for twice the devices, or how many trials shall wait"),
    ("startup", *_COUNT),
)


_FUSION_CHECKS: tuple[Check, ...] = (
    ("max_width", *_COUNT),
    ("patience_s", *_NON_NEGATIVE),
)


# Of the stopping policies that stop somebody.
_STOPPING_CHECKS: tuple[Check, ...] = (
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


class Validator:
    """Checks the configs of many variants. A part (`optimizer`, `task`, ...) that several of them share as an object is
    checked once, so the parts must not change while this lives."""

    def __init__(self) -> None:
        # What passed, by the identities of what was looked at, which is kept alive so that these stay its own.
        self._passed: dict[tuple[object, ...], tuple[Any, ...]] = {}

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise ConfigError for the first value of a resolved variant config that can't run."""
        self._check_parts_names(config)
        self._once(_check_algorithm, "", config["algorithm"])
        for part, checks in _PART_CHECKS.items():
            self._once(_apply, part + ".", checks, config[part])
        self._check_training(config, "")
        for name, stage in stages_of(config):
            prefix = f"recipe.stages.{name}."
            self._once(_check_algorithm, prefix, stage["algorithm"])
            self._once(_check_fields, prefix + "optimizer.", OptimizerConfig, stage["optimizer"])
            self._check_training(stage, prefix)
            self._once(_check_gang, prefix, config["cluster"], config["deepspeed"], stage["algorithm"])
            self._once(_check_overlong, prefix, stage["algorithm"], config["task"])
        self._once(_check_half_life, "", config["ordering"])
        self._once(_check_packing, "packing.", config["packing"])
        self._once(_apply, "fusion.", _FUSION_CHECKS, config["fusion"])
        self._once(_check_search, "search.", config["search"])
        self._once(_check_stopping, "stopping.", config["stopping"])
        self._once(_check_tenants, "", config["tenants"])
        self._once(_check_grace, "", config["cluster"])
        self._once(_check_model, "", config["model"], config["deepspeed"])
        self._once(_check_format_reward, "", config["task"])
        self._once(_check_curriculum, "", config["task"])
        self._once(_check_data, "", config["task"])

    def _check_parts_names(self, config: Mapping[str, Any]) -> None:
        hints = _hints(Config)
        for name, value in config.items():
            _check_known(name, value, hints, prefix="")
            if name in _CHOICES:
                self._once(_check_choice, name, _CHOICES[name], value)
            # What a cluster's own config adds is checked against the constructor it goes to.
            if name != "cluster" and is_dataclass(hints[name]):
                self._once(_check_fields, name + ".", _schema_of(name, value), value)

    def _check_training(self, training: Mapping[str, Any], prefix: str) -> None:
        """The numbers of what trains: a variant's own algorithm, optimizer and seed, or a stage's."""
        algorithm = training["algorithm"]
        self._once(_apply, prefix + "optimizer.", _OPTIMIZER_CHECKS, training["optimizer"])
        self._once(_apply, prefix + "algorithm.", _EVERY_ALGORITHM_CHECKS, algorithm)
        self._once(_check_schedule, prefix, training["optimizer"], algorithm)
        _apply(prefix, _SEED_CHECKS, training)
        if checks := _ALGORITHM_CHECKS.get(algorithm["name"]):
            self._once(_apply, prefix + "algorithm.", checks, algorithm)

    def _once(self, check: Callable[..., None], prefix: str, *parts: Any) -> None:
        seen = (check, prefix, *map(id, parts))
        if seen not in self._passed:
            check(prefix, *parts)
            self._passed[seen] = parts


def validate(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first value of a resolved variant config that can't run."""
    Validator().check(config)


def validate_policies(config: Mapping[str, Any]) -> None:
    """The same for the parts of any resolved config that say how a queue is served."""
    for group in ("ordering", "packing", "preemption", "defragmentation"):
        part = config[group]
        _check_choice(group, _CHOICES[group], part)
        _check_fields(f"{group}.", _schema_of(group, part), part)
        _apply(f"{group}.", _PART_CHECKS.get(group, ()), part)
    _check_packing("packing.", config["packing"])
    _check_half_life("", config["ordering"])
    _check_tenants("", config["tenants"])


def stages_of(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The recipe's stages in order, as (name, {algorithm, optimizer, seed}). Raises ConfigError if one is missing."""
    stages = config["recipe"]["stages"]
    if not stages:
        raise ConfigError("recipe.stages", "{}", "a recipe needs at least one stage")
    for name, stage in stages.items():
        if not isinstance(stage, Mapping):
            raise ConfigError(f"recipe.stages.{name}", stage, "a stage has algorithm, optimizer and seed")
        for part in ("algorithm", "optimizer", "seed"):
            if part not in stage:
                raise ConfigError(f"recipe.stages.{name}", dict(stage), f"add {part}, for example {part}: ${{{part}}}")
        for part in ("algorithm", "optimizer"):
            if not isinstance(stage[part], Mapping):
                remedy = f"choose it by its group: {part}@recipe.stages.{name}.{part}=..."
                raise ConfigError(f"recipe.stages.{name}.{part}", stage[part], remedy)
        yield name, stage


@cache
def _hints(schema: type) -> Mapping[str, Any]:
    return get_type_hints(schema)


def _schema_of(group: str, part: Mapping[str, Any]) -> type:
    """The schema of what was chosen, if it has fields of its own, or else that of its group."""
    own = SCHEMAS.get((group, f"base_{part.get('name')}")) if group in _CHOICES else None
    return own or cast(type, _hints(Config)[group])


def _apply(prefix: str, checks: tuple[Check, ...], part: Mapping[str, Any]) -> None:
    for path, accepts, remedy in checks:
        value: Any = part
        for name in path.split("."):
            value = value[name]
        if not accepts(value) or (isinstance(value, float) and not math.isfinite(value)):
            raise ConfigError(prefix + path, value, remedy)


def _check_fields(prefix: str, schema: type, part: Mapping[str, Any]) -> None:
    """Hydra's `+key=value` adds whatever it is told to; a key that nothing reads is refused here."""
    hints = _hints(schema)
    for name, value in part.items():
        _check_known(name, value, hints, prefix)
        if is_dataclass(hints[name]):
            _check_fields(f"{prefix}{name}.", hints[name], value)


def _check_known(name: str, value: object, hints: Mapping[str, Any], prefix: str) -> None:
    if name not in hints:
        raise ConfigError(prefix + name, value, f"unknown key; there is: {', '.join(sorted(hints))}")


def _check_choice(group: str, known: Collection[str], part: Mapping[str, Any]) -> None:
    if part["name"] not in known:
        raise ConfigError(f"{group}.name", part["name"], f"there is: {', '.join(sorted(known))}")


def _check_algorithm(prefix: str, algorithm: Mapping[str, Any]) -> None:
    """An algorithm's name decides which fields it has, so the two must come from one place."""
    schema = ALGORITHMS.get(algorithm["name"], AlgorithmConfig)
    absent = {f.name for f in fields(schema)} - set(algorithm)
    of_another = any(set(algorithm) == {f.name for f in fields(other)} for other in ALGORITHMS.values())
    if absent or (of_another and schema is AlgorithmConfig):
        remedy = f"its fields are another algorithm's; choose by the group: algorithm={'|'.join(sorted(ALGORITHMS))}"
        raise ConfigError(f"{prefix}algorithm.name", algorithm["name"], remedy)
    _check_fields(f"{prefix}algorithm.", schema, algorithm)


def _check_schedule(prefix: str, optimizer: Mapping[str, Any], algorithm: Mapping[str, Any]) -> None:
    if optimizer["schedule"] != Schedule.wsd:
        return
    steps = algorithm["max_steps"]
    before = steps - decay_steps(optimizer, steps)
    if before < optimizer["warmup_steps"]:
        name = "decay_steps" if optimizer["decay_steps"] else "decay_fraction"
        remedy = f"warmup_steps={optimizer['warmup_steps']} and the decay must fit into max_steps={steps}"
        raise ConfigError(f"{prefix}optimizer.{name}", optimizer[name], remedy)


def _check_gang(
    prefix: str, cluster: Mapping[str, Any], deepspeed: Mapping[str, Any], algorithm: Mapping[str, Any]
) -> None:
    """The global batch must split evenly over a gang's processes and the accumulation steps."""
    parts, accumulation = cluster["devices_per_trial"], deepspeed["gradient_accumulation_steps"]
    for name in ("batch_size", "prompts_per_step"):
        if name in algorithm and algorithm[name] % (parts * accumulation):
            remedy = (
                f"use a multiple of cluster.devices_per_trial x gradient_accumulation_steps = {parts * accumulation}"
            )
            raise ConfigError(f"{prefix}algorithm.{name}", algorithm[name], remedy)
    if parts > 1 and cluster["share_per_trial"] < 1:
        raise ConfigError("cluster.share_per_trial", cluster["share_per_trial"], "a gang holds whole devices: use 1.0")


def _check_overlong(prefix: str, algorithm: Mapping[str, Any], task: Mapping[str, Any]) -> None:
    """Where every answer is punished for its length, the shortest possible one is right."""
    buffer, longest = algorithm.get("overlong_buffer", 0), task["max_answer_tokens"]
    if buffer >= longest:
        remedy = f"use fewer tokens than task.max_answer_tokens={longest}, or 0 to punish no length"
        raise ConfigError(f"{prefix}algorithm.overlong_buffer", buffer, remedy)


def _check_format_reward(prefix: str, task: Mapping[str, Any]) -> None:
    if task["reward"]["format"] and task["answer_format"] != "cot":
        remedy = f"task.answer_format={task['answer_format']} has nothing to keep to; use 0, or task.answer_format=cot"
        raise ConfigError(f"{prefix}task.reward.format", task["reward"]["format"], remedy)


def _check_curriculum(prefix: str, task: Mapping[str, Any]) -> None:
    before = 0
    for number, level in enumerate(task["curriculum"]):
        name = f"{prefix}task.curriculum[{number}]"
        if not isinstance(level, Mapping) or set(level) != {"until", "options"}:
            raise ConfigError(name, level, "a level is {until: 800, options: {max_digits: 1}}")
        if not isinstance(level["until"], int) or level["until"] <= before:
            remedy = f"use a whole number of problems above that of the level before ({before})"
            raise ConfigError(f"{name}.until", level["until"], remedy)
        before = level["until"]
    if task["curriculum"] and task["source"] != "reasoning_gym":
        raise ConfigError(
            f"{prefix}task.curriculum", task["curriculum"], "only reasoning_gym makes problems by options"
        )


def _check_half_life(prefix: str, ordering: Mapping[str, Any]) -> None:
    if ordering.get("half_life_s", 1.0) <= 0:
        raise ConfigError(f"{prefix}ordering.half_life_s", ordering["half_life_s"], "use a positive number of seconds")


def _check_packing(prefix: str, packing: Mapping[str, Any]) -> None:
    _apply(prefix, tuple(check for check in _PACKING_CHECKS if check[0] in packing), packing)


def _check_search(prefix: str, search: Mapping[str, Any]) -> None:
    _apply(prefix, tuple(check for check in _SEARCH_CHECKS if check[0] in search), search)


def _check_stopping(prefix: str, stopping: Mapping[str, Any]) -> None:
    _apply(prefix, tuple(check for check in _STOPPING_CHECKS if check[0] in stopping), stopping)
    of_budget = stopping.get("grace_unit") == "budget"
    for algorithm, grace in stopping.get("grace", {}).items():
        if not (0 <= grace <= 1 if of_budget else 0 <= grace < math.inf):
            remedy = "use a fraction of the budget, 0 to 1" if of_budget else "use 0 or more units of stopping.resource"
            raise ConfigError(f"{prefix}grace.{algorithm}", grace, f"{remedy}; stopping.grace_unit says which it is")


def _check_grace(prefix: str, cluster: Mapping[str, Any]) -> None:
    if cluster.get("stop_grace_s", 1.0) <= 0:
        raise ConfigError(f"{prefix}cluster.stop_grace_s", cluster["stop_grace_s"], "use a positive number of seconds")


def _check_tenants(prefix: str, tenants: Mapping[str, Any]) -> None:
    for name, tenant in tenants["tenants"].items():
        _check_tenant(f"{prefix}tenants.tenants.{name}.", tenant)


def _check_tenant(prefix: str, tenant: Mapping[str, Any]) -> None:
    _check_fields(prefix, TenantConfig, tenant)
    if not tenant["weight"] > 0:
        raise ConfigError(f"{prefix}weight", tenant["weight"], "use a positive number; 2 gets twice the share of 1")
    for name in ("quota", "borrowing_limit"):
        if tenant[name] is not None and not tenant[name] >= 0:
            raise ConfigError(
                f"{prefix}{name}", tenant[name], "use a number of devices, 0 or more, or null for no limit"
            )


def _check_model(prefix: str, model: Mapping[str, Any], deepspeed: Mapping[str, Any]) -> None:
    """A model's name decides which fields it has, so the two must come from one place."""
    name = model["name"]
    if name not in MODELS:
        raise ConfigError(f"{prefix}model.name", name, f"there is: {', '.join(sorted(MODELS))}")
    if absent := {f.name for f in fields(MODELS[name])} - set(model):
        remedy = f"its fields are another model's, {sorted(absent)[0]} is missing; choose by the group: model={name}"
        raise ConfigError(f"{prefix}model.name", name, remedy)
    _check_fields(f"{prefix}model.", MODELS[name], model)
    _apply(f"{prefix}model.", _MODEL_CHECKS[name], model)
    if name == "hf":
        check_hf_model(prefix, model, deepspeed)
    else:
        _check_heads(prefix, model)


def _check_heads(prefix: str, model: Mapping[str, Any]) -> None:
    if model["d_model"] % model["heads"] or (model["d_model"] // model["heads"]) % 2:
        remedy = f"use a number that splits d_model={model['d_model']} into even head widths"
        raise ConfigError(f"{prefix}model.heads", model["heads"], remedy)
    if model["heads"] % model["kv_heads"]:
        raise ConfigError(f"{prefix}model.kv_heads", model["kv_heads"], f"use a divisor of heads={model['heads']}")


def _check_data(prefix: str, task: Mapping[str, Any]) -> None:
    if (task["path"] or task["source"] == "jsonl") and not Path(task["path"]).is_file():
        raise ConfigError(
            f"{prefix}task.path", repr(task["path"]), "no such file; give one with a JSON object per line"
        )
