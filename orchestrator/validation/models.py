"""Checks over several fields of models, and of the models of a recipe's stages."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from orchestrator.config import ConfigError
from orchestrator.hf_models import check_hf_model
from orchestrator.schema.training import MODELS
from orchestrator.validation.ranges import MODEL_CHECKS, apply
from orchestrator.validation.shapes import check_fields
from orchestrator.validation.training import stages_of


def check_model(prefix: str, model: Mapping[str, Any], deepspeed: Mapping[str, Any]) -> None:
    """A model's name decides which fields it has, so the two must come from one place."""
    name = model["name"]
    if name not in MODELS:
        raise ConfigError(f"{prefix}model.name", name, f"there is: {', '.join(sorted(MODELS))}")
    if absent := {f.name for f in fields(MODELS[name])} - set(model):
        remedy = f"its fields are another model's, {sorted(absent)[0]} is missing; choose by the group: model={name}"
        raise ConfigError(f"{prefix}model.name", name, remedy)
    check_fields(f"{prefix}model.", MODELS[name], model)
    apply(f"{prefix}model.", MODEL_CHECKS[name], model)
    if name == "hf":
        check_hf_model(prefix, model, deepspeed)
    else:
        _check_heads(prefix, model)
        if model["experts_per_token"] > model["experts"]:
            remedy = (
                f"a token has at most all of the {model['experts']} routed experts; use fewer, or more model.experts"
            )
            raise ConfigError(f"{prefix}model.experts_per_token", model["experts_per_token"], remedy)


def check_models_of_stages(prefix: str, recipe: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """A stage goes on with the weights of the one before, so another model begins with those that it has by itself."""
    before: Mapping[str, Any] | None = None
    for name, stage in stages_of({"recipe": recipe}):
        own, fresh = stage.get("model", model), stage["algorithm"].get("fresh", False)
        if before is None and fresh:
            remedy = "it learns from the stage before it; use recipe=distill, recipe=distill_hf or recipe=warm_start"
            raise ConfigError(f"{prefix}recipe.stages.{name}.algorithm.name", stage["algorithm"]["name"], remedy)
        if before is not None and own != before and not fresh:
            remedy = (
                "it goes on with the weights of the stage before, which is another model; distill begins with new ones"
            )
            raise ConfigError(f"{prefix}recipe.stages.{name}.model", dict(own), remedy)
        if own["name"] != model["name"]:
            other = "recipe=distill_hf" if model["name"] == "hf" else "recipe=distill"
            remedy = f"a teacher and its student are of one kind, and model={model['name']}; use {other}"
            raise ConfigError(f"{prefix}recipe.stages.{name}.model.name", own["name"], remedy)
        before = own


def _check_heads(prefix: str, model: Mapping[str, Any]) -> None:
    if model["d_model"] % model["heads"] or (model["d_model"] // model["heads"]) % 2:
        remedy = f"use a number that splits d_model={model['d_model']} into even head widths"
        raise ConfigError(f"{prefix}model.heads", model["heads"], remedy)
    if model["heads"] % model["kv_heads"]:
        raise ConfigError(f"{prefix}model.kv_heads", model["kv_heads"], f"use a divisor of heads={model['heads']}")
