"""Setting values in a template, and checking and keying many variants, give what doing it one by one gives."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from orchestrator.config import ConfigError
from orchestrator.sweep.composing import Composer, hydra_session, resolved
from orchestrator.sweep.template import Template
from orchestrator.sweep.variants import VariantMaker
from orchestrator.validation import Validator, validate

# Few choices of groups: composing one takes half a second.
GROUPS = (
    [],
    ["algorithm=grpo", "deepspeed=bf16"],
    ["study=rl_vs_sft", "recipe=from_scratch", "task=gcd"],
)
VALUES = {
    "seed": ("0", "7", "2147483647", "1.0", "true", "'3'", "null"),
    "optimizer.lr": ("1e-3", "2", "0.5", "'1e-2'", "abc", "-1"),
    "optimizer.schedule": ("cosine", "linear", "sideways"),
    "optimizer.warmup_steps": ("5", "5.0", "2.5"),
    "algorithm.max_steps": ("30", "0"),
    "algorithm.group_size": ("4", "1"),
    "algorithm.aggregation": ("token", "constant"),
    "model.tie_embeddings": ("true", "false", "no", "1"),
    "model.layers": ("1", "3"),
    "task.prompt": ("'{question}?'", "a b", "${algorithm.name}"),
    "task.path": ("here.jsonl", "''"),
    "task.options.min_terms": ("3", "2.0", "true"),
    "task.split.dev": ("100",),
    "deepspeed.bf16.enabled": ("true", "false"),
    "deepspeed.zero_optimization.stage": ("1", "4"),
    "recipe.stages.warmup.algorithm.max_steps": ("10", "900"),
    "recipe.stages.warmup.seed": ("1", "${seed}"),
    "recipe.stages.warmup.optimizer.lr": ("3e-3",),
    "recipe.stages.main.seed": ("5", "true"),
    "recipe.stages.main.optimizer.lr": ("1e-4",),
    "recipe.stages.main.optimizer": ("3", "${recipe.stages.warmup.optimizer}"),
    "recipe.stages.main.algorithm.max_steps": ("3",),
    "model": ("3", "{layers: 3}"),
    "nothing.there": ("1",),
    "+task.options.decimals": ("2",),
    "+optimizer.momentum": ("0.9",),
    "++optimizer.lr": ("4e-4",),
    "cluster.share_per_trial": ("0.5",),
}

OVERRIDES = st.sampled_from(sorted(VALUES)).flatmap(
    lambda key: st.sampled_from([f"{key}={value}" for value in VALUES[key]])
)
COMBINATIONS = st.builds(
    lambda groups, values: [*groups, *values],
    st.sampled_from(GROUPS),
    st.lists(OVERRIDES, max_size=5, unique_by=lambda override: override.partition("=")[0]),
)


# Holds Hydra for as long as the module runs: `compose_study` would wait for it.
@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with hydra_session(None):
        yield Composer()


def by_hydra(composer: Composer, overrides: list[str]) -> Mapping[str, Any] | str:
    """The config, or what was wrong with it."""
    try:
        return resolved(composer.compose(overrides), overrides)
    except ConfigError as error:
        return str(error)


def by_template(composer: Composer, overrides: list[str]) -> Mapping[str, Any] | str:
    try:
        return composer.config(overrides)
    except ConfigError as error:
        return str(error)


def refusal(check: Callable[[Mapping[str, Any]], None], config: Mapping[str, Any]) -> str:
    try:
        check(config)
    except ConfigError as error:
        return str(error)
    return ""


def typed(value: Any) -> Any:
    """The value with its types: 1, 1.0 and True are equal otherwise."""
    if isinstance(value, Mapping):
        return {name: typed(part) for name, part in value.items()}
    return [typed(part) for part in value] if isinstance(value, list) else (type(value), value)


@settings(max_examples=60, deadline=None)
@given(combination=COMBINATIONS)
@example(combination=["seed=3", "recipe.stages.main.seed=4"])
@example(combination=["recipe.stages.main.seed=4", "seed=3"])
@example(combination=["seed=3", "recipe.stages.warmup.seed=4"])
@example(combination=["optimizer.lr=2", "seed=1.0", "optimizer.schedule=cosine", "task.options.min_terms=true"])
@example(combination=["recipe.stages.main.optimizer=${recipe.stages.warmup.optimizer}", "optimizer.lr=0.5"])
@example(combination=["recipe.stages.main.optimizer=3", "optimizer.lr=0.5"])
def test_setting_values_in_a_template_equals_hydras_own_composition(composer: Composer, combination: list[str]) -> None:
    assert typed(by_template(composer, combination)) == typed(by_hydra(composer, combination))


@settings(max_examples=25, deadline=None)
@given(combinations=st.lists(COMBINATIONS, min_size=2, max_size=4))
def test_checking_and_keying_many_variants_equals_doing_it_one_by_one(
    composer: Composer, combinations: list[list[str]]
) -> None:
    validator, maker = Validator(), VariantMaker()
    for combination in combinations:
        config, alone = by_template(composer, combination), by_hydra(composer, combination)
        if isinstance(config, str) or isinstance(alone, str):
            continue
        problem = refusal(validator.check, config)
        assert problem == refusal(validate, alone)
        if not problem:
            assert maker.make(config, ()) == VariantMaker().make(alone, ())


def test_a_reference_to_what_lies_beside_it_or_above_is_followed() -> None:
    composed = OmegaConf.create(
        {"heads": 1, "model": {"heads": 4, "kv": "${.heads}", "deep": {"er": "${..heads}"}}, "copy": "${model}"}
    )
    plain: dict[str, object] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    config = Template(composed, plain).config(["model.heads=8"])
    model = {"heads": 8, "kv": 8, "deep": {"er": 8}}
    assert config == {"heads": 1, "model": model, "copy": model}
    assert Template(composed, plain).config(["model.kv=2"])["model"]["heads"] == 4  # type: ignore[index]
