"""The whole Hydra surface as structured configs, and the checks that run before any device is taken.

Hydra refuses unknown keys and wrong types through these dataclasses; `validate` refuses values out of range. Every
refusal is a `ConfigError` that names the field, the value and what would do.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import MISSING

from orchestrator.ordering import ORDERINGS
from orchestrator.packing import PACKINGS
from orchestrator.schema.training import (
    ALGORITHMS,
    AlgorithmConfig,
    DeepSpeedConfig,
    EvaluationConfig,
    GrpoConfig,
    ModelConfig,
    OptimizerConfig,
    SftConfig,
    TaskConfig,
)
from orchestrator.stopping import STOPPINGS
from orchestrator.tracking import TRACKERS


class ConfigError(Exception):
    """A config that can't run. The message is one or two lines for the person who wrote it."""

    def __init__(self, field_name: str, value: object, remedy: str) -> None:
        super().__init__(f"{field_name}={value}: {remedy}")


@dataclass
class RecipeConfig:
    """The ordered stages of a variant, by name; each has `algorithm`, `optimizer` and `seed`. The last stage is the
    one that the variant is about; stages before it are shared by the variants whose configs agree on them."""

    name: str = MISSING
    stages: dict[str, Any] = field(default_factory=dict)


@dataclass
class ClusterConfig:
    """Where bundles run. `implementation` is `package.module:Class`; `devices` 0 takes all there are.

    share_per_trial: the fraction of each of its `devices_per_trial` devices that a trial holds. max_attempts: how
    often a stage may be lost with its worker. Fields that a subclass adds go to the implementation's constructor.
    """

    name: str = MISSING
    implementation: str = MISSING
    devices: int = 0
    devices_per_trial: int = 1
    share_per_trial: float = 1.0
    max_attempts: int = 3


@dataclass
class NodeClusterConfig(ClusterConfig):
    """preload: modules that the forkserver imports before it forks. stop_grace_s: how long a bundle that is asked to
    stop may take to reach a step boundary."""

    preload: list[str] = field(default_factory=list)
    stop_grace_s: float = 10.0


@dataclass
class RayClusterConfig(NodeClusterConfig):
    """`address` (host:port) of a running Ray cluster; empty starts one on this machine for the time of the study."""

    address: str = ""


@dataclass
class PolicyConfig:
    """The name of one policy of a family: `ordering`, `packing` or `stopping`."""

    name: str = MISSING


@dataclass
class TrackingConfig:
    """`uri`: an MLflow server (http://...) or database; empty is `mlflow.db` in the home folder."""

    name: str = MISSING
    uri: str = ""


@dataclass
class StudyConfig:
    """`sweep` maps override keys to values in Hydra's sweep grammar; the command line has the last word.

    reuse_stages: take a non-final stage's output from an earlier study where its key is the same.
    """

    name: str = MISSING
    sweep: dict[str, str] = field(default_factory=dict)
    reuse_stages: bool = True


@dataclass
class DebugConfig:
    """Marks a debugging overlay; `none` changes nothing."""

    name: str = MISSING


@dataclass
class Config:
    """One variant, fully resolved."""

    study: StudyConfig = MISSING
    recipe: RecipeConfig = MISSING
    algorithm: Any = MISSING
    optimizer: OptimizerConfig = MISSING
    model: ModelConfig = MISSING
    task: TaskConfig = MISSING
    deepspeed: DeepSpeedConfig = MISSING
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    cluster: ClusterConfig = MISSING
    ordering: PolicyConfig = MISSING
    packing: PolicyConfig = MISSING
    stopping: PolicyConfig = MISSING
    tracking: TrackingConfig = MISSING
    debug: DebugConfig = MISSING
    seed: int = 0


SCHEMAS: Mapping[tuple[str, str], type] = {
    ("", "base_config"): Config,
    ("study", "base_study"): StudyConfig,
    ("recipe", "base_recipe"): RecipeConfig,
    ("algorithm", "base_algorithm"): AlgorithmConfig,
    ("algorithm", "base_sft"): SftConfig,
    ("algorithm", "base_grpo"): GrpoConfig,
    ("optimizer", "base_optimizer"): OptimizerConfig,
    ("model", "base_model"): ModelConfig,
    ("task", "base_task"): TaskConfig,
    ("deepspeed", "base_deepspeed"): DeepSpeedConfig,
    ("cluster", "base_cluster"): ClusterConfig,
    ("cluster", "base_node"): NodeClusterConfig,
    ("cluster", "base_ray"): RayClusterConfig,
    ("ordering", "base_policy"): PolicyConfig,
    ("packing", "base_policy"): PolicyConfig,
    ("stopping", "base_policy"): PolicyConfig,
    ("tracking", "base_tracking"): TrackingConfig,
    ("debug", "base_debug"): DebugConfig,
}


def register_schemas() -> None:
    """Make the structured configs known to Hydra, as the `base_*` entries that the YAML files start from."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for (group, name), schema in SCHEMAS.items():
        store.store(group=group or None, name=name, node=schema, provider="orchestrator.config")


Check = tuple[str, Callable[[Any], bool], str]


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

_TOP_CHECKS: tuple[Check, ...] = (
    ("model.d_model", *_COUNT),
    ("model.layers", *_COUNT),
    ("model.heads", *_COUNT),
    ("model.kv_heads", *_COUNT),
    ("model.d_ff", *_COUNT),
    ("model.rope_theta", _positive, "use a positive number such as 10000"),
    ("task.size", *_COUNT),
    ("task.source", _one_of("reasoning_gym", "jsonl"), "use reasoning_gym or jsonl"),
    ("task.answer_format", _one_of("plain", "reversed"), "use plain or reversed"),
    ("task.reward_threshold", _fraction, "use a fraction above 0 and at most 1"),
    ("task.max_prompt_tokens", *_COUNT),
    ("task.max_answer_tokens", _at_least(2), "use at least 2: one token and the end mark"),
    ("task.split.supervised", *_NON_NEGATIVE),
    ("task.split.dev", *_COUNT),
    ("task.split.test", *_COUNT),
    ("deepspeed.zero_optimization.stage", _one_of(0, 1, 2, 3), "use a ZeRO stage: 0, 1, 2 or 3"),
    ("deepspeed.zero_optimization.offload_optimizer.device", _one_of("none", "cpu"), "use none or cpu"),
    ("deepspeed.gradient_accumulation_steps", *_COUNT),
    ("deepspeed.gradient_clipping", _at_least(0), "use 0 (off) or a positive norm such as 1.0"),
    ("evaluation.every_steps", *_COUNT),
    ("evaluation.batch_size", *_COUNT),
    ("evaluation.timed_answers", *_COUNT),
    ("cluster.devices", _at_least(0), "use 0 for all devices, or how many to take"),
    ("cluster.devices_per_trial", *_COUNT),
    ("cluster.share_per_trial", _fraction, "use a fraction of a device, above 0 and at most 1"),
    ("cluster.max_attempts", *_COUNT),
)

_STAGE_CHECKS: tuple[Check, ...] = (
    ("optimizer.lr", _positive, "use a positive learning rate such as 1e-3"),
    ("optimizer.beta1", lambda v: 0 <= v < 1, "use a number from 0 up to, not including, 1"),
    ("optimizer.beta2", lambda v: 0 <= v < 1, "use a number from 0 up to, not including, 1"),
    ("optimizer.eps", _positive, "use a small positive number such as 1e-8"),
    ("optimizer.weight_decay", *_NON_NEGATIVE),
    ("optimizer.warmup_steps", *_NON_NEGATIVE),
    ("algorithm.max_steps", *_COUNT),
    ("seed", lambda v: 0 <= v < 2**31, "use a whole number from 0 to 2147483647"),
)

_ALGORITHM_CHECKS: Mapping[str, tuple[Check, ...]] = {
    "sft": (
        ("algorithm.batch_size", *_COUNT),
        ("algorithm.stop_at_accuracy", _fraction, "use an accuracy above 0; 1.0 never stops early"),
    ),
    "grpo": (
        ("algorithm.prompts_per_step", *_COUNT),
        ("algorithm.group_size", _at_least(2), "use at least 2: advantages compare a group's completions"),
        ("algorithm.temperature", _positive, "use a positive temperature; sampling needs spread"),
        ("algorithm.updates_per_rollout", *_COUNT),
        ("algorithm.clip_low", lambda v: 0 < v <= 1, "use a fraction such as 0.2"),
        ("algorithm.clip_high", _positive, "use a positive number such as 0.2"),
        ("algorithm.kl_weight", *_NON_NEGATIVE),
    ),
}


_CHOICES: Mapping[str, Collection[str]] = {
    "ordering": ORDERINGS,
    "packing": PACKINGS,
    "stopping": STOPPINGS,
    "tracking": TRACKERS,
}


def validate(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first value of a resolved variant config that can't run."""
    # What a cluster's own config adds is checked against the constructor it goes to.
    _check_fields({name: part for name, part in config.items() if name != "cluster"}, Config, prefix="")
    _check_algorithm(config["algorithm"], prefix="")
    for group, known in _CHOICES.items():
        if config[group]["name"] not in known:
            raise ConfigError(f"{group}.name", config[group]["name"], f"there is: {', '.join(sorted(known))}")
    _apply(_TOP_CHECKS, config, prefix="")
    _apply(_STAGE_CHECKS, config, prefix="")
    _apply(_ALGORITHM_CHECKS.get(config["algorithm"]["name"], ()), config, prefix="")
    for name, stage in stages_of(config):
        prefix = f"recipe.stages.{name}."
        _check_algorithm(stage["algorithm"], prefix)
        _check_fields(stage["optimizer"], OptimizerConfig, f"{prefix}optimizer.")
        _apply(_STAGE_CHECKS, stage, prefix)
        _apply(_ALGORITHM_CHECKS.get(stage["algorithm"]["name"], ()), stage, prefix)
        _check_gang(config, stage, prefix)
    if config["cluster"].get("stop_grace_s", 1.0) <= 0:
        raise ConfigError("cluster.stop_grace_s", config["cluster"]["stop_grace_s"], "use a positive number of seconds")
    model = config["model"]
    if model["d_model"] % model["heads"] or (model["d_model"] // model["heads"]) % 2:
        raise ConfigError(
            "model.heads", model["heads"], f"use a number that splits d_model={model['d_model']} into even head widths"
        )
    if model["heads"] % model["kv_heads"]:
        raise ConfigError("model.kv_heads", model["kv_heads"], f"use a divisor of heads={model['heads']}")
    _check_data(config)


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


def _apply(checks: tuple[Check, ...], config: Mapping[str, Any], prefix: str) -> None:
    for path, accepts, remedy in checks:
        value: Any = config
        for part in path.split("."):
            value = value[part]
        if not accepts(value) or (isinstance(value, float) and not math.isfinite(value)):
            raise ConfigError(prefix + path, value, remedy)


def _check_fields(data: Mapping[str, Any], schema: type, prefix: str) -> None:
    """Hydra's `+key=value` adds whatever it is told to; a key that nothing reads is refused here."""
    hints = get_type_hints(schema)
    for name, value in data.items():
        if name not in hints:
            raise ConfigError(prefix + name, value, f"unknown key; there is: {', '.join(sorted(hints))}")
        if is_dataclass(hints[name]) and isinstance(hints[name], type):
            _check_fields(value, hints[name], f"{prefix}{name}.")


def _check_algorithm(algorithm: Mapping[str, Any], prefix: str) -> None:
    """An algorithm's name decides which fields it has, so the two must come from one place."""
    schema = ALGORITHMS.get(algorithm["name"], AlgorithmConfig)
    absent = {f.name for f in fields(schema)} - set(algorithm)
    of_another = any(set(algorithm) == {f.name for f in fields(other)} for other in ALGORITHMS.values())
    if absent or (of_another and schema is AlgorithmConfig):
        remedy = f"its fields are another algorithm's; choose by the group: algorithm={'|'.join(sorted(ALGORITHMS))}"
        raise ConfigError(f"{prefix}algorithm.name", algorithm["name"], remedy)
    _check_fields(algorithm, schema, f"{prefix}algorithm.")


def _check_gang(config: Mapping[str, Any], stage: Mapping[str, Any], prefix: str) -> None:
    """The global batch must split evenly over a gang's processes and the accumulation steps."""
    algorithm, parts = stage["algorithm"], config["cluster"]["devices_per_trial"]
    accumulation = config["deepspeed"]["gradient_accumulation_steps"]
    for name in ("batch_size", "prompts_per_step"):
        if name in algorithm and algorithm[name] % (parts * accumulation):
            remedy = (
                f"use a multiple of cluster.devices_per_trial x gradient_accumulation_steps = {parts * accumulation}"
            )
            raise ConfigError(f"{prefix}algorithm.{name}", algorithm[name], remedy)
    if parts > 1 and config["cluster"]["share_per_trial"] < 1:
        raise ConfigError(
            "cluster.share_per_trial", config["cluster"]["share_per_trial"], "a gang holds whole devices: use 1.0"
        )


def _check_data(config: Mapping[str, Any]) -> None:
    task = config["task"]
    if task["source"] == "jsonl" and not Path(task["path"]).is_file():
        raise ConfigError("task.path", repr(task["path"]), "no such file; give one with a JSON object per line")
