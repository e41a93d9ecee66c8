"""The checks of a resolved variant config that run before any device is taken.

Every refusal is a `ConfigError` that names the field, the value and what would do.
"""

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any

from orchestrator.config import Config
from orchestrator.schema.training import OptimizerConfig
from orchestrator.validation.models import check_model, check_models_of_stages
from orchestrator.validation.ranges import (
    ALGORITHM_CHECKS,
    EVERY_ALGORITHM_CHECKS,
    FUSION_CHECKS,
    OPTIMIZER_CHECKS,
    PART_CHECKS,
    SEED_CHECKS,
    apply,
)
from orchestrator.validation.scheduling import (
    check_grace,
    check_half_life,
    check_packing,
    check_search,
    check_stopping,
    check_tenants,
)
from orchestrator.validation.shapes import CHOICES, check_choice, check_fields, check_known, hints_of, schema_of
from orchestrator.validation.training import (
    check_algorithm,
    check_curriculum,
    check_data,
    check_format_reward,
    check_gang,
    check_overlong,
    check_quantization,
    check_rollout,
    check_schedule,
    stages_of,
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
        self._once(check_algorithm, "", config["algorithm"])
        for part, checks in PART_CHECKS.items():
            self._once(apply, part + ".", checks, config[part])
        self._check_training(config, "")
        for name, stage in stages_of(config):
            prefix = f"recipe.stages.{name}."
            self._once(check_algorithm, prefix, stage["algorithm"])
            self._once(check_fields, prefix + "optimizer.", OptimizerConfig, stage["optimizer"])
            self._check_training(stage, prefix)
            if "model" in stage:
                self._once(check_model, prefix, stage["model"], config["deepspeed"])
            self._once(check_gang, prefix, config["cluster"], config["deepspeed"], stage["algorithm"])
            self._once(check_overlong, prefix, stage["algorithm"], config["task"])
        self._once(check_models_of_stages, "", config["recipe"], config["model"])
        check_quantization(config)
        self._once(check_half_life, "", config["ordering"])
        self._once(check_packing, "packing.", config["packing"])
        self._once(apply, "fusion.", FUSION_CHECKS, config["fusion"])
        self._once(check_search, "search.", config["search"])
        self._once(check_stopping, "stopping.", config["stopping"])
        self._once(check_tenants, "", config["tenants"])
        self._once(check_grace, "", config["cluster"])
        self._once(check_model, "", config["model"], config["deepspeed"])
        self._once(check_rollout, "", config["rollout"], config["model"], config["cluster"])
        self._once(check_format_reward, "", config["task"])
        self._once(check_curriculum, "", config["task"])
        self._once(check_data, "", config["task"])

    def _check_parts_names(self, config: Mapping[str, Any]) -> None:
        hints = hints_of(Config)
        for name, value in config.items():
            check_known(name, value, hints, prefix="")
            if name in CHOICES:
                self._once(check_choice, name, CHOICES[name], value)
            # What a cluster's own config adds is checked against the constructor it goes to.
            if name != "cluster" and is_dataclass(hints[name]):
                self._once(check_fields, name + ".", schema_of(name, value), value)

    def _check_training(self, training: Mapping[str, Any], prefix: str) -> None:
        """The numbers of what trains: a variant's own algorithm, optimizer and seed, or a stage's."""
        algorithm = training["algorithm"]
        self._once(apply, prefix + "optimizer.", OPTIMIZER_CHECKS, training["optimizer"])
        self._once(apply, prefix + "algorithm.", EVERY_ALGORITHM_CHECKS, algorithm)
        self._once(check_schedule, prefix, training["optimizer"], algorithm)
        apply(prefix, SEED_CHECKS, training)
        if checks := ALGORITHM_CHECKS.get(algorithm["name"]):
            self._once(apply, prefix + "algorithm.", checks, algorithm)

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
        check_choice(group, CHOICES[group], part)
        check_fields(f"{group}.", schema_of(group, part), part)
        apply(f"{group}.", PART_CHECKS.get(group, ()), part)
    check_packing("packing.", config["packing"])
    check_half_life("", config["ordering"])
    check_tenants("", config["tenants"])
