"""A stage as a whole: plain data as it is kept, and its typed view."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any, TypeVar, get_type_hints

from orchestrator.schema.training.algorithms import ALGORITHMS, AlgorithmConfig, RolloutConfig
from orchestrator.schema.training.models import MODELS, AnyModelConfig
from orchestrator.schema.training.optimizing import DeepSpeedConfig, OptimizerConfig
from orchestrator.schema.training.tasks import EvaluationConfig, TaskConfig

T = TypeVar("T")


@dataclass
class StageConfig:
    """All that a stage run needs to know about training."""

    algorithm: AlgorithmConfig
    optimizer: OptimizerConfig
    model: AnyModelConfig
    task: TaskConfig
    deepspeed: DeepSpeedConfig
    evaluation: EvaluationConfig
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    seed: int = 0


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
        rollout=_build(RolloutConfig, data.get("rollout", {})),
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
