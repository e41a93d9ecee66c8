"""Recipes: what they share, a stage's own model, and settings that only some of them have."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from orchestrator.config import ConfigError
from orchestrator.keys import stage_key
from orchestrator.schema import Variant
from orchestrator.schema.training import ModelConfig, PredictionConfig
from orchestrator.sweep import ComposedStudy, compose_base, compose_like, compose_study
from tests.hf_models import QWEN_2_5_0_5B, write_published

RECIPES = ["sft", "r1_zero", "r1", "distill", "dpo"]
COT = "task=addition_cot"
CONF = Path(__file__).parents[4] / "conf"


@pytest.fixture(scope="module")
def swept() -> ComposedStudy:
    return compose_study([f"recipe={','.join(RECIPES)}", COT, "seed=0,1"])


def by_recipe(study: ComposedStudy, seed: int = 0) -> dict[str, Variant]:
    return {variant.algorithm: variant for variant in study.variants if variant.seed == seed}


def names(variant: Variant) -> list[str]:
    return [stage.config["algorithm"]["name"] for stage in variant.stages]


def test_recipes_are_lists_of_stages(swept: ComposedStudy) -> None:
    assert {name: names(variant) for name, variant in by_recipe(swept).items()} == {
        "sft": ["sft", "sft"],
        "r1_zero": ["sft", "grpo"],
        "r1": ["sft", "sft", "grpo", "rejection_sft", "grpo"],
        "distill": ["sft", "sft", "grpo", "distill"],
        "dpo": ["sft", "sft", "dpo"],
    }


def test_equal_prefixes_have_equal_keys(swept: ComposedStudy) -> None:
    one, other = by_recipe(swept, 0), by_recipe(swept, 1)
    assert len({variant.stages[0].key for variant in swept.variants}) == 1
    assert [s.key for s in one["r1"].stages[:3]] == [s.key for s in one["distill"].stages[:3]]
    assert one["dpo"].stages[1].key == one["r1"].stages[1].key != other["r1"].stages[1].key
    # The base once, and of each seed that of sft, of r1_zero, four of r1, a student and that of dpo.
    keys = {stage.key for variant in swept.variants for stage in variant.stages}
    assert sum(len(variant.stages) for variant in swept.variants) == 32
    assert len(keys) == 1 + 2 * 8 == 17


def test_variants_of_a_recipe_with_algorithms_of_its_own_are_compared_by_its_name(swept: ComposedStudy) -> None:
    assert [variant.algorithm for variant in swept.variants[::2]] == RECIPES
    assert {variant.setting for variant in swept.variants} == {()}


def test_variants_of_a_recipe_around_any_algorithm_are_compared_by_that() -> None:
    variants = compose_study(["recipe=warm_start,from_scratch", "algorithm=sft,grpo"]).variants
    assert [variant.algorithm for variant in variants] == ["sft", "grpo", "sft", "grpo"]
    assert [variant.setting for variant in variants[1:3]] == [("recipe=warm_start",), ("recipe=from_scratch",)]


def test_a_student_is_a_smaller_model_than_its_teacher(swept: ComposedStudy) -> None:
    *teacher, student = by_recipe(swept)["distill"].stages
    assert {stage.config["model"]["d_model"] for stage in teacher} == {64}
    assert student.config["model"]["d_model"] == 48


@pytest.mark.parametrize(("kind", "own"), [(ModelConfig, ()), (PredictionConfig, ("prediction",))])
def test_a_student_takes_all_of_its_teacher_but_the_size(kind: type, own: tuple[str, ...]) -> None:
    """What a decoder is given one day too: `conf/recipe/distill.yaml` names each value."""
    model = OmegaConf.load(CONF / "recipe" / "distill.yaml").stages.student.model
    taken = model[own[0]] if own else model
    assert set(taken) == {field.name for field in fields(kind)} - {"name", "layers"}


def test_a_stages_own_model_that_is_the_variants_leaves_its_key_as_it_was() -> None:
    own = compose_study(["recipe=distill", COT, "recipe.stages.student.model.d_model=64", "model.d_ff=128"])
    (variant,) = own.variants
    student = variant.stages[-1]
    without = {**student.config, "model": variant.config["model"]}
    assert student.key == stage_key(json.loads(json.dumps(without)), student.parent_key)


def test_settings_that_only_some_recipes_have_multiply_those_alone() -> None:
    student, group = "recipe.stages.student.model.d_model=32,48", "recipe.stages.rl.algorithm.group_size=4"
    variants = compose_study(["recipe=sft,r1_zero,distill", COT, student, group]).variants
    assert [(variant.algorithm, variant.setting) for variant in variants] == [
        ("sft", ()),
        ("r1_zero", ("recipe.stages.rl.algorithm.group_size=4",)),
        ("distill", ("recipe.stages.student.model.d_model=32", "recipe.stages.rl.algorithm.group_size=4")),
        ("distill", ("recipe.stages.student.model.d_model=48", "recipe.stages.rl.algorithm.group_size=4")),
    ]
    assert [v.stages[-1].config["algorithm"].get("group_size") for v in variants] == [None, 4, None, None]


def test_settings_that_only_some_algorithms_have_multiply_those_alone() -> None:
    variants = compose_study(["algorithm=sft,grpo", "algorithm.clip_high=0.2,0.3", "algorithm.batch_size=8"]).variants
    assert [(v.algorithm, v.setting) for v in variants] == [
        ("sft", ("algorithm.batch_size=8",)),
        ("grpo", ("algorithm.clip_high=0.2",)),
        ("grpo", ("algorithm.clip_high=0.3",)),
    ]


def test_a_setting_that_no_swept_recipe_has_is_refused_by_name() -> None:
    with pytest.raises(
        ConfigError, match=r"recipe\.stages\.studnt\.model\.d_model=32: unknown key under recipe=sft"
    ) as told:
        compose_study(["recipe=sft,distill", COT, "recipe.stages.studnt.model.d_model=32"])
    assert "did you mean stages.student.model.d_model?" in str(told.value)
    assert len(str(told.value)) < 300


@pytest.mark.parametrize("override", ["optimizer.lr=1e-4", "algorithm.max_steps=10,20", "algorithm=grpo"])
def test_what_no_chosen_recipe_takes_is_refused_and_does_not_change_nothing(override: str) -> None:
    key = override.partition("=")[0].replace(".", r"\.")
    with pytest.raises(ConfigError, match=rf"{key}=.*: recipe=r1 and sft has its own .* recipe\.stages\.STAGE\.{key}"):
        compose_study(["recipe=r1,sft", COT, override])


def test_what_one_of_the_recipes_takes_is_taken() -> None:
    variants = compose_study(["recipe=from_scratch,sft", "optimizer.lr=3e-4"]).variants
    assert [v.stages[-1].config["optimizer"]["lr"] for v in variants] == [3e-4, 1e-3]


def test_what_a_study_sweeps_is_left_out_where_the_command_line_leaves_it_no_place() -> None:
    sweep = "+study.sweep={recipe: 'sft,distill', recipe.stages.student.model.d_model: '32,48'}"
    assert [v.algorithm for v in compose_study([sweep, COT]).variants] == ["sft", "distill", "distill"]
    assert [v.algorithm for v in compose_study([sweep, COT, "recipe=r1,sft"]).variants] == ["r1", "sft"]
    assert [v.algorithm for v in compose_study([sweep, COT, "recipe=sft"]).variants] == ["sft"]


def test_conditional_settings_are_in_the_space_of_a_search() -> None:
    lr = "recipe.stages.rl.optimizer.lr=interval(1e-4,1e-3)"
    space = compose_study(["search=random", "recipe=sft,r1_zero", COT, lr]).space
    assert space is not None
    assert [(c.key, c.options) for c in space.conditions] == [("recipe.stages.rl.optimizer.lr", ("r1_zero",))]


def test_a_trial_of_a_recipe_is_composed_again_with_its_own_settings() -> None:
    overrides = ["recipe=sft,r1_zero", COT, "recipe.stages.rl.algorithm.group_size=4"]
    sft, r1_zero = compose_study(overrides).variants
    assert compose_like(overrides, sft, []).key == sft.key
    assert compose_like(overrides, r1_zero, []).key == r1_zero.key


def test_the_base_config_of_a_sweep_over_recipes_is_printed() -> None:
    text = compose_base(["recipe=sft,r1_zero", COT, "recipe.stages.rl.algorithm.group_size=4"])
    assert "recipe.stages.rl.algorithm.group_size: '4'" in text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+recipe.stages.sft.models=3"], r"recipe\.stages\.sft\.models=3: a stage has"),
        (["+model@recipe.stages.sft.model=decoder", "recipe.stages.sft.model.d_model=32"], "goes on with the weights"),
        (["+recipe.stages.sft.model=3"], r"choose it by its group: model@recipe\.stages\.sft\.model"),
    ],
)
def test_a_model_that_a_stage_can_not_begin_with_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_study(["recipe=sft", COT, *overrides])


def test_a_student_has_its_teachers_architecture() -> None:
    overrides = ["recipe=distill", COT, "attention=mqa,mla", "ffn=moe", "heads=multi_token", "model.kv_rank=16"]
    variants = compose_study([*overrides, "model.heads=2"]).variants
    for variant in variants:
        teacher, student = (stage.config["model"] for stage in variant.stages[-2:])
        assert {name for name in teacher if teacher[name] != student[name]} == {"d_model", "d_ff"}
    kinds = [variant.stages[-1].config["model"]["attention"] for variant in variants]
    assert kinds == ["heads", "mla"]


def test_a_stage_that_is_set_to_null_is_left_out() -> None:
    variants = compose_study(["recipe=r1_zero,dpo", COT, "recipe.stages.base=null"]).variants
    assert [names(variant) for variant in variants] == [["grpo"], ["sft", "dpo"]]
    with pytest.raises(ConfigError, match=r"recipe\.stages=\{\}: a recipe needs at least one stage"):
        compose_study(["recipe=base", "recipe.stages.base=null"])


QUANTIZED = "+recipe/stages@recipe.stages=quantize"


def test_the_model_of_any_recipe_is_quantized_behind_its_last_stage() -> None:
    plain = compose_study(["recipe=r1,distill", COT]).variants
    variants = compose_study(["recipe=r1,distill", COT, QUANTIZED, "quantization=none,kv6"]).variants
    assert [variant.algorithm for variant in variants[::2]] == ["r1", "distill"]
    for before, none, kv6 in zip(plain, variants[::2], variants[1::2], strict=True):
        assert [stage.key for stage in none.stages[:-1]] == [stage.key for stage in before.stages]
        assert [stage.key for stage in kv6.stages[:-1]] == [stage.key for stage in before.stages]
        last, bits = kv6.stages[-1].config, none.stages[-1].config["algorithm"]["kv_bits"]
        assert (last["algorithm"]["name"], last["algorithm"]["kv_bits"], bits) == ("quantize", 6, 0)
        assert last["model"] == before.stages[-1].config["model"]  # of a student: the student


def test_a_teacher_and_its_student_are_there_and_of_one_kind(tmp_path: Path) -> None:
    teacher, student = (write_published(tmp_path / name, QWEN_2_5_0_5B) for name in ("teacher", "student"))
    hf, own = ["model=hf", f"model.path={teacher}"], f"recipe.stages.student.model.path={student}"
    (variant,) = compose_study(["recipe=distill_hf", "recipe.stages.base=null", *hf, own]).variants
    assert [stage.config["model"]["path"] for stage in variant.stages] == [str(teacher), str(teacher), str(student)]
    for overrides, told in (
        (["recipe=distill", *hf], r"student\.model\.name=decoder: .* use recipe=distill_hf"),
        (["recipe=distill", "model@recipe.stages.student.model=hf"], r"student\.model=hf: .* use recipe=distill_hf"),
        (["recipe=distill_hf", own], r"student\.model\.name=hf: .* model=decoder; use recipe=distill"),
        (["recipe=distill_hf", *hf], r"recipe\.stages\.student\.model\.path='': no such folder"),
        (
            ["recipe=from_scratch", "algorithm=distill"],
            r"main\.algorithm\.name=distill: it learns from the stage before",
        ),
    ):
        with pytest.raises(ConfigError, match=told):
            compose_study(overrides)
