"""Stages have one digest exactly if they may train as one program."""

from dataclasses import replace

import pytest

from orchestrator.fusion import fusion_digest
from orchestrator.schema import Stage
from orchestrator.sweep import compose_study
from tests.unit.orchestrator.builders import fusable_config, stage


def with_value(name: str, value: object) -> Stage:
    """A fusable stage in which the field of that dotted name has another value."""
    config = fusable_config()
    *path, last = name.split(".")
    inner = config
    for part in path:
        inner = inner[part]
    assert inner[last] != value
    inner[last] = value
    return replace(stage("main", fusable=True), config=config)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 3), ("optimizer.lr", 0.5), ("optimizer.warmup_steps", 3), ("algorithm.max_steps", 7),
     ("algorithm.stop_at_accuracy", 0.5), ("deepspeed.gradient_clipping", 0.25), ("evaluation.every_steps", 3)],
)  # fmt: skip
def test_numbers_may_differ(name: str, value: object) -> None:
    assert fusion_digest(with_value(name, value)) == fusion_digest(stage("main", fusable=True)) != ""


@pytest.mark.parametrize(
    ("name", "value"),
    [("algorithm.batch_size", 7), ("algorithm.name", "other"), ("model.d_model", 8), ("task.name", "other"),
     ("task.max_answer_tokens", 99)],
)  # fmt: skip
def test_shapes_may_not(name: str, value: object) -> None:
    assert fusion_digest(with_value(name, value)) not in ("", fusion_digest(stage("main", fusable=True)))


@pytest.mark.parametrize(
    ("name", "value"),
    [("deepspeed.zero_optimization.stage", 1), ("deepspeed.bf16.enabled", True),
     ("deepspeed.gradient_accumulation_steps", 2), ("deepspeed.extra", {"wall_clock_breakdown": True})],
)  # fmt: skip
def test_what_cannot_be_fused_has_none(name: str, value: object) -> None:
    assert fusion_digest(with_value(name, value)) == ""


def test_without_a_fused_program_there_is_none() -> None:
    assert fusion_digest(replace(stage("main", fusable=True), fused_entrypoint="")) == ""


def test_stages_of_other_entrypoints_are_not_fused() -> None:
    made = stage("main", fusable=True)
    assert fusion_digest(replace(made, entrypoint="tests:other")) != fusion_digest(made)


def test_an_entrypoint_of_another_package_is_not_what_the_fused_program_trains() -> None:
    made = replace(stage("main", fusable=True), fused_entrypoint="theirs.fused:run")
    assert fusion_digest(replace(made, entrypoint="theirs.sft:run")) != ""
    assert fusion_digest(replace(made, entrypoint="mine.sft:run")) == ""


@pytest.mark.parametrize("recipe", ["sft", "r1_zero", "r1", "distill", "dpo"])
def test_the_seeds_of_a_recipe_train_every_stage_behind_the_base_together(recipe: str) -> None:
    variants = compose_study([f"recipe={recipe}", "task=addition_cot", "seed=range(0,3)"]).variants
    for stages in zip(*(variant.stages for variant in variants), strict=True):
        digests = {fusion_digest(stage) for stage in stages}
        assert len(digests) == 1, stages[0].name
        assert digests != {""}, stages[0].name
        assert len({stage.key for stage in stages}) == (1 if stages[0].name == "base" else 3)


@pytest.mark.parametrize(
    "sweep",
    [
        "algorithm=rejection_sft,distill",
        "algorithm=rejection_sft algorithm.sampling.per_prompt=4,8",
        "algorithm=dpo algorithm.beta=0.1,0.3",
        "algorithm=dpo algorithm.label_smoothing=0,0.1",
    ],
)
def test_what_a_member_has_to_itself_does_not_part_it_from_others(sweep: str) -> None:
    variants = compose_study(["recipe=warm_start", *sweep.split()]).variants
    assert len({fusion_digest(variant.stages[-1]) for variant in variants}) == 1


@pytest.mark.parametrize("sweep", ["algorithm=sft,rejection_sft,dpo", "heads=next_token,multi_token"])
def test_what_steps_otherwise_or_has_another_shape_is_another_stack(sweep: str) -> None:
    variants = compose_study(["recipe=warm_start", sweep]).variants
    digests = {fusion_digest(variant.stages[-1]) for variant in variants}
    assert len(digests) == len(variants)
    assert "" not in digests


@pytest.mark.parametrize("recipe", ["quantized", "quantized_aware"])
def test_a_stage_that_trains_nothing_runs_alone(recipe: str) -> None:
    (variant,) = compose_study([f"recipe={recipe}", "algorithm=sft", "quantization=int8"]).variants
    assert [bool(fusion_digest(stage)) for stage in variant.stages] == [True] * (len(variant.stages) - 1) + [False]


def test_those_that_learn_with_weights_in_as_many_bits_train_together() -> None:
    sweep = ["recipe=quantized_aware", "algorithm=sft", "quantization=int8,int4", "seed=0,1", "optimizer.lr=1e-3,2e-3"]
    variants = compose_study(sweep).variants
    digests = [fusion_digest(next(s for s in variant.stages if s.name == "aware")) for variant in variants]
    assert sorted(digests.count(digest) for digest in set(digests)) == [4, 4]
    plain = compose_study(["recipe=warm_start", "algorithm=sft"]).variants[0].stages[-1]
    assert fusion_digest(plain) not in digests
