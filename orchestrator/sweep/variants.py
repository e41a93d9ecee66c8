"""Resolved configs -> variants with chained stage keys."""

from collections.abc import Mapping
from typing import Any

from orchestrator.hf_models import located
from orchestrator.keys import StageKeys, unshared_variant
from orchestrator.schema import Stage, Variant
from orchestrator.validation.training import stages_of


class VariantMaker:
    """Makes the variants of one study. Equal stages are one object, and parts that configs share stay shared, so that
    whoever stores or sends variants can tell by identity what they have in common. Nothing of it may be changed."""

    def __init__(self) -> None:
        self._keys = StageKeys()
        # By the identities of what they are made of, which is kept alive so that these stay its own.
        self._by_parts: dict[tuple[object, ...], tuple[Stage, Mapping[str, Any]]] = {}
        self._located: dict[int, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
        self._by_key: dict[tuple[str, str], Stage] = {}

    def make(self, config: Mapping[str, Any], overrides: tuple[str, ...]) -> Variant:
        """`config` is resolved and validated. Raises OSError if a data file is gone."""
        stages: list[Stage] = []
        parent_key = ""
        for name, recipe_stage in stages_of(config):
            stage = self._stage(name, recipe_stage, config, parent_key)
            stages.append(stage)
            parent_key = stage.key
        variant = Variant(
            key=parent_key,
            algorithm=config["recipe"]["compared_as"] or config["recipe"]["name"],
            seed=config["seed"],
            overrides=overrides,
            config=config,
            stages=tuple(stages),
        )
        return variant if config["study"]["share_stages"] else unshared_variant(variant)

    def _stage(self, name: str, recipe_stage: Mapping[str, Any], config: Mapping[str, Any], parent_key: str) -> Stage:
        parts = {part: recipe_stage[part] for part in ("algorithm", "optimizer")}
        parts |= {part: config[part] for part in ("task", "deepspeed", "evaluation", "rollout")}
        parts["model"] = self._model(recipe_stage.get("model", config["model"]))
        seed = recipe_stage["seed"]
        made_of = (name, parent_key, type(seed), seed, *map(id, parts.values()))
        if made_of not in self._by_parts:
            shares_trunks = bool(config["study"]["share_trunks"])
            stage = self._new_stage(name, {**parts, "seed": seed}, parent_key, shares_trunks=shares_trunks)
            self._by_parts[made_of] = (stage, parts)
        return self._by_parts[made_of][0]

    def _model(self, model: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a stage is told of its model: where on this machine it lies."""
        if model["name"] != "hf":
            return model
        if id(model) not in self._located:
            self._located[id(model)] = (model, located(model))
        return self._located[id(model)][1]

    def _new_stage(self, name: str, config: Mapping[str, Any], parent_key: str, *, shares_trunks: bool) -> Stage:
        """A stage that equals one that was made before is that one."""
        key = self._keys.key(config, parent_key)
        made = self._by_key.get((name, key))
        # Equal keys leave room for a difference: where the data file lies.
        if made is not None and made.config == config:
            return made
        algorithm = config["algorithm"]
        trunk, trunk_steps = self._keys.trunk(config, parent_key) if shares_trunks else ("", 0)
        self._by_key[name, key] = Stage(
            name=name,
            key=key,
            parent_key=parent_key,
            entrypoint=algorithm["entrypoint"],
            config=config,
            budget_steps=algorithm["max_steps"],
            fused_entrypoint=algorithm["fused_entrypoint"],
            trunk=trunk,
            trunk_steps=trunk_steps,
        )
        return self._by_key[name, key]
