"""Stages have one digest exactly if they may train as one program."""

from dataclasses import replace

import pytest

from orchestrator.fusion import fusion_digest
from orchestrator.schema import Stage
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
