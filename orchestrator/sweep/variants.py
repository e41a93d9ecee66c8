"""Resolved configs -> variants with chained stage keys."""

from collections.abc import Mapping
from typing import Any

from orchestrator.keys import StageKeys
from orchestrator.schema import Stage, Variant
from orchestrator.validation import stages_of


class VariantMaker:
    """Makes the variants of one study. Equal stages are one object, and parts that configs share stay shared, so that
    whoever stores or sends variants can tell by identity what they have in common. Nothing of it may be changed."""

    def __init__(self) -> None:
        self._keys = StageKeys()
        # By the identities of what they are made of, which is kept alive so that these stay its own.
        self._by_parts: dict[tuple[object, ...], tuple[Stage, Mapping[str, Any]]] = {}
        self._by_key: dict[tuple[str, str], Stage] = {}

    def make(self, config: Mapping[str, Any], overrides: tuple[str, ...]) -> Variant:
        """`config` is resolved and validated. Raises OSError if a data file is gone."""
        stages: list[Stage] = []
        parent_key = ""
        for name, recipe_stage in stages_of(config):
            stage = self._stage(name, recipe_stage, config, parent_key)
            stages.append(stage)
            parent_key = stage.key
        return Variant(
            key=parent_key,
            algorithm=config["algorithm"]["name"],
            seed=config["seed"],
            overrides=overrides,
            config=config,
            stages=tuple(stages),
        )

    def _stage(self, name: str, recipe_stage: Mapping[str, Any], config: Mapping[str, Any], parent_key: str) -> Stage:
        parts = {part: recipe_stage[part] for part in ("algorithm", "optimizer")}
        parts |= {part: config[part] for part in ("model", "task", "deepspeed", "evaluation")}
        seed = recipe_stage["seed"]
        made_of = (name, parent_key, type(seed), seed, *map(id, parts.values()))
        if made_of not in self._by_parts:
            stage = self._new_stage(name, {**parts, "seed": seed}, parent_key)
            self._by_parts[made_of] = (stage, parts)
        return self._by_parts[made_of][0]

    def _new_stage(self, name: str, config: Mapping[str, Any], parent_key: str) -> Stage:
        """A stage that equals one that was made before is that one."""
        key = self._keys.key(config, parent_key)
        made = self._by_key.get((name, key))
        # Equal keys leave room for a difference: where the data file lies.
        if made is not None and made.config == config:
            return made
        algorithm = config["algorithm"]
        self._by_key[name, key] = Stage(
            name=name,
            key=key,
            parent_key=parent_key,
            entrypoint=algorithm["entrypoint"],
            config=config,
            budget_steps=algorithm["max_steps"],
        )
        return self._by_key[name, key]
