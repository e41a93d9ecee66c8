"""What variants of one study share, and what they don't."""

import pytest

from orchestrator.sweep import ComposedStudy, compose_study


@pytest.fixture(scope="module")
def swept() -> ComposedStudy:
    return compose_study(["study=rl_vs_sft", "recipe.stages.warmup.algorithm.max_steps=10,20", "seed=0,1"])


def test_a_stage_that_variants_share_is_one_object(swept: ComposedStudy) -> None:
    stages = [stage for variant in swept.variants for stage in variant.stages]
    assert len({id(stage) for stage in stages}) == len({stage.key for stage in stages}) == 2 + 16


def test_variants_share_the_parts_on_which_they_agree(swept: ComposedStudy) -> None:
    of_one_algorithm = [variant for variant in swept.variants if variant.algorithm == "grpo"]
    assert len({id(variant.config["task"]) for variant in of_one_algorithm}) == 1
    assert len({id(variant.config["optimizer"]) for variant in of_one_algorithm}) == 2


def test_sharing_does_not_leak_what_one_variant_changes_into_another(swept: ComposedStudy) -> None:
    for variant in swept.variants:
        given = dict(override.split("=") for override in variant.overrides)
        warmup, main = (variant.config["recipe"]["stages"][name] for name in ("warmup", "main"))
        assert variant.algorithm == main["algorithm"]["name"] == given["algorithm"]
        assert variant.config["optimizer"]["lr"] == main["optimizer"]["lr"] == float(given["optimizer.lr"])
        assert variant.seed == main["seed"] == int(given["seed"])
        assert warmup["algorithm"]["max_steps"] == int(given["recipe.stages.warmup.algorithm.max_steps"])
        assert (warmup["seed"], warmup["optimizer"]["lr"], warmup["algorithm"]["name"]) == (0, 2e-3, "sft")


def test_a_config_whose_interpolations_are_more_than_references_is_composed_by_hydra() -> None:
    overrides = ["seed=1,2", "task.prompt='${seed}: {question}'", "recipe.stages.warmup.seed=${seed}"]
    composed = compose_study(overrides)
    assert [variant.config["task"]["prompt"] for variant in composed.variants] == ["1: {question}", "2: {question}"]
    assert [variant.stages[0].config["seed"] for variant in composed.variants] == [1, 2]
