"""Checks over several fields of what trains: algorithms, recipes, tasks."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from orchestrator.config import ConfigError
from orchestrator.schema.training import (
    ALGORITHMS,
    AlgorithmConfig,
    RolloutEngineName,
    Schedule,
    Training,
    Weights,
    decay_steps,
)
from orchestrator.validation.shapes import check_fields

_STAGE_PARTS = "a stage has algorithm, optimizer and seed, and may have a model of its own"


def stages_of(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The recipe's stages in order, as (name, {algorithm, optimizer, seed}, and a `model` where that is another than
    the variant's: a stage's own, or that of the stage before it). Those that were set to null are left out.

    Raises ConfigError for a stage that lacks something.
    """
    stages = {name: stage for name, stage in config["recipe"]["stages"].items() if stage is not None}
    if not stages:
        raise ConfigError("recipe.stages", "{}", "a recipe needs at least one stage")
    model: Any = None
    for name, stage in stages.items():
        if not isinstance(stage, Mapping):
            raise ConfigError(f"recipe.stages.{name}", stage, _STAGE_PARTS)
        for part in ("algorithm", "optimizer", "seed"):
            if part not in stage:
                raise ConfigError(f"recipe.stages.{name}", dict(stage), f"add {part}, for example {part}: ${{{part}}}")
        if unknown := sorted(set(stage) - {"algorithm", "optimizer", "seed", "model"}):
            raise ConfigError(f"recipe.stages.{name}.{unknown[0]}", stage[unknown[0]], _STAGE_PARTS)
        for part in ("algorithm", "optimizer", "model"):
            if not isinstance(stage.get(part, {}), Mapping):
                remedy = f"choose it by its group: {part}@recipe.stages.{name}.{part}=..."
                raise ConfigError(f"recipe.stages.{name}.{part}", stage[part], remedy)
        model = stage.get("model", model)
        yield name, stage if model is None or "model" in stage else {**stage, "model": model}


def check_algorithm(prefix: str, algorithm: Mapping[str, Any]) -> None:
    """An algorithm's name decides which fields it has, so the two must come from one place."""
    schema = ALGORITHMS.get(algorithm["name"], AlgorithmConfig)
    absent = {f.name for f in fields(schema)} - set(algorithm)
    of_another = any(set(algorithm) == {f.name for f in fields(other)} for other in ALGORITHMS.values())
    if absent or (of_another and schema is AlgorithmConfig):
        remedy = f"its fields are another algorithm's; choose by the group: algorithm={'|'.join(sorted(ALGORITHMS))}"
        raise ConfigError(f"{prefix}algorithm.name", algorithm["name"], remedy)
    check_fields(f"{prefix}algorithm.", schema, algorithm)


def check_schedule(prefix: str, optimizer: Mapping[str, Any], algorithm: Mapping[str, Any]) -> None:
    """Warm-up and decay of `wsd` must fit into the stage."""
    if optimizer["schedule"] != Schedule.wsd:
        return
    steps = algorithm["max_steps"]
    before = steps - decay_steps(optimizer, steps)
    if before < optimizer["warmup_steps"]:
        name = "decay_steps" if optimizer["decay_steps"] else "decay_fraction"
        remedy = f"warmup_steps={optimizer['warmup_steps']} and the decay must fit into max_steps={steps}"
        raise ConfigError(f"{prefix}optimizer.{name}", optimizer[name], remedy)


def check_gang(
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


def check_quantization(config: Mapping[str, Any]) -> None:
    """What is chosen must be what some stage does, and can do."""
    algorithms = [stage["algorithm"] for _, stage in stages_of(config)]
    chosen, quantized = config["quantization"], any(algorithm["name"] == "quantize" for algorithm in algorithms)
    if (chosen["weights"] != Weights.none or chosen["kv_bits"]) and not quantized:
        remedy = "no stage quantizes; use recipe=quantized, or add +recipe/stages@recipe.stages=quantize to another"
        raise ConfigError("quantization.name", chosen["name"], remedy)
    adapters = config["model"].get("training") == Training.lora
    if adapters and any(algorithm["name"] == "quantization_aware_sft" for algorithm in algorithms):
        remedy = "the base of adapters does not learn; use model.training=full, or recipe=quantized"
        raise ConfigError("model.training", config["model"]["training"], remedy)


def check_overlong(prefix: str, algorithm: Mapping[str, Any], task: Mapping[str, Any]) -> None:
    """Where every answer is punished for its length, the shortest possible one is right."""
    buffer, longest = algorithm.get("overlong_buffer", 0), task["max_answer_tokens"]
    if buffer >= longest:
        remedy = f"use fewer tokens than task.max_answer_tokens={longest}, or 0 to punish no length"
        raise ConfigError(f"{prefix}algorithm.overlong_buffer", buffer, remedy)


def check_rollout(
    prefix: str, rollout: Mapping[str, Any], model: Mapping[str, Any], cluster: Mapping[str, Any]
) -> None:
    """vLLM knows models of Hugging Face, and is given all of their weights after each step, in one process."""
    if rollout["engine"] != RolloutEngineName.vllm:
        return
    if model.get("training") != Training.full:
        remedy = "vLLM decodes a whole Hugging Face model: use builtin, or model=hf model.training=full"
        raise ConfigError(f"{prefix}rollout.engine", rollout["engine"], remedy)
    if cluster["devices_per_trial"] > 1:
        remedy = "vLLM decodes in the one process that trains: use builtin, or cluster.devices_per_trial=1"
        raise ConfigError(f"{prefix}rollout.engine", rollout["engine"], remedy)


def check_format_reward(prefix: str, task: Mapping[str, Any]) -> None:
    """Only an answer with a format can keep to it."""
    if task["reward"]["format"] and task["answer_format"] != "cot":
        remedy = f"task.answer_format={task['answer_format']} has nothing to keep to; use 0, or task.answer_format=cot"
        raise ConfigError(f"{prefix}task.reward.format", task["reward"]["format"], remedy)


def check_curriculum(prefix: str, task: Mapping[str, Any]) -> None:
    """Levels come one after the other, and only a source that makes problems has them."""
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


def check_data(prefix: str, task: Mapping[str, Any]) -> None:
    """A file of problems must be there."""
    if (task["path"] or task["source"] == "jsonl") and not Path(task["path"]).is_file():
        raise ConfigError(
            f"{prefix}task.path", repr(task["path"]), "no such file; give one with a JSON object per line"
        )
