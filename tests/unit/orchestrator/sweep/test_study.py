"""Overrides become variants; whatever can't run is refused with the field, the value and what would do."""

from pathlib import Path

import pytest

from orchestrator.config import ConfigError
from orchestrator.sweep import compose_base, compose_study


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose_study(overrides)
    return str(caught.value)


def test_the_default_study_has_sixteen_variants_behind_one_warm_up() -> None:
    composed = compose_study(["study=rl_vs_sft"])
    assert len(composed.variants) == 16
    assert len({v.stages[0].key for v in composed.variants}) == 1
    assert len({v.key for v in composed.variants}) == 16


def test_the_command_line_replaces_the_studys_sweep_key_by_key() -> None:
    composed = compose_study(["study=rl_vs_sft", "algorithm=grpo", "optimizer.lr=3e-4,1e-3", "seed=range(0,4)"])
    assert composed.sweep == ("algorithm=grpo", "optimizer.lr=3e-4,1e-3", "seed=range(0,4)")
    assert {v.algorithm for v in composed.variants} == {"grpo"}
    assert len(composed.variants) == 8


def test_a_sweep_over_another_key_is_added_to_the_studys() -> None:
    composed = compose_study(["study=rl_vs_sft", "algorithm=sft", "seed=0", "model.layers=1,2"])
    assert [v.overrides for v in composed.variants[:2]] == [
        ("algorithm=sft", "optimizer.lr=0.0005", "seed=0", "model.layers=1"),
        ("algorithm=sft", "optimizer.lr=0.0005", "seed=0", "model.layers=2"),
    ]


def test_variants_composed_by_setting_values_equal_hydras_own_composition() -> None:
    swept = compose_study(["algorithm=sft,grpo", "optimizer.lr=1e-3,2e-3", "seed=3"])
    for variant in swept.variants:
        alone = compose_study([*variant.overrides, "seed=3"])
        assert alone.variants[0].config | {"study": 0} == dict(variant.config) | {"study": 0}


def test_without_a_sweep_there_is_one_variant() -> None:
    assert len(compose_study([]).variants) == 1


def test_where_a_variant_runs_is_not_in_its_key() -> None:
    here, there = compose_study([]), compose_study(["cluster.share_per_trial=0.5", "packing=exclusive"])
    assert here.variants[0].key == there.variants[0].key


@pytest.mark.parametrize("override", ["optimizer.lr=2e-3", "seed=1", "task.seed=1", "evaluation.every_steps=7"])
def test_what_affects_the_result_is_in_the_key(override: str) -> None:
    assert compose_study([]).variants[0].key != compose_study([override]).variants[0].key


def test_the_bytes_of_a_data_file_are_in_the_key(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    keys = []
    for answer in ("1", "2"):
        path.write_text(f'{{"prompt": "a", "answer": "{answer}"}}\n')
        keys.append(compose_study(["task=jsonl", f"task.path={path}"]).variants[0].key)
    assert keys[0] != keys[1]


def test_the_composed_config_is_printed_as_yaml_with_the_sweep_that_applies() -> None:
    text = compose_base(["study=rl_vs_sft", "seed=0,1"])
    assert "name: rl_vs_sft" in text
    assert "seed: 0,1" in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("study=nope", "study=nope: there is: efficiency, peers, qwen_gsm8k, r1_recipes, rl_vs_sft, single"),
        ("packing=bestfit", "packing=bestfit: did you mean best_fit? there is: best_fit, dot_product"),
        ("optimizer.lrr=3", "optimizer.lrr=3: unknown key; did you mean lr?"),
        ("frobnicate=1", "frobnicate=1: unknown key"),
        (
            "optimizer.lr=abc",
            "optimizer.lr=abc: Value 'abc' of type 'str' could not be converted to Float; use a number",
        ),
        (
            "algorithm.max_steps=1.5",
            "algorithm.max_steps=1.5: Value '1.5' of type 'float' could not be converted to Integer; use a whole",
        ),
        ("fusion.refill=perhaps", "fusion.refill=perhaps: Value 'perhaps' is not a valid bool (type str); use true or"),
        ("optimizer.lr=-1", "optimizer.lr=-1.0: use a positive learning rate such as 1e-3"),
        ("optimizer.lr=1e-3,-1", "optimizer.lr=-1.0: use a positive learning rate such as 1e-3"),
        ("cluster.share_per_trial=1.5", "cluster.share_per_trial=1.5: use a fraction of a device"),
        ("cluster.devices=-1", "cluster.devices=-1: use 0 for all devices"),
        ("deepspeed.zero_optimization.stage=4", "deepspeed.zero_optimization.stage=4: use a ZeRO stage"),
        ("model.heads=3", "model.heads=3: use a number that splits d_model=64"),
        ("recipe.stages.warmup.optimizer.lr=-3", "recipe.stages.warmup.optimizer.lr=-3.0: use a positive"),
        ("study=single,rl_vs_sft", "study=single,rl_vs_sft: one study has one"),
        ("stopping.name=median,never", "stopping.name=median,never: one study has one: give a single value"),
        ("fusion.max_width=8,16", "fusion.max_width=8,16: one study has one"),
        ("cluster.devices_per_trial=1,2", "cluster.devices_per_trial=1,2: one study has one"),
        ("study.priority=range(0,3)", "study.priority=range(0,3): one study has one"),
        ("+study.sweep={cluster.devices: '1'}", "cluster.devices=1: it stands in the study's sweep"),
        ("seed=range(0", "override='seed=range(0'"),
        ("nonsense", "override='nonsense': missing EQUAL"),
        ("=3", "config=?"),
        ("optimizer.lr=interval(1e-5,1e-2)", "sweep=optimizer.lr=interval(1e-5,1e-2)"),
        ("seed=-1", "seed=-1: use a whole number from 0"),
        ("optimizer.lr=inf", "optimizer.lr=inf: use a positive learning rate"),
        ("optimizer.lr=nan", "optimizer.lr=nan: use a positive learning rate"),
        ("optimizer.lr=null", "optimizer.lr=null: it needs a value"),
        ("optimizer.lr=glob(*)", "sweep=optimizer.lr=glob(*): list the values"),
        ("seed=range(0,0)", "sweep=seed=range(0,0): 0 variants"),
        ("seed=range(0,200000)", "sweep=seed=range(0,200000): 200000 variants; a study has 1 to 100000"),
        ("+frobnicate=1", "frobnicate=1: unknown key; there is: access, algorithm,"),
        ("+optimizer.momentum=1", "optimizer.momentum=1: unknown key; there is: beta1"),
        ("+task.split.train=1", "task.split.train=1: unknown key; there is: dev"),
        ("+algorithm.momentum=1", "algorithm.momentum=1: unknown key; there is: batch_size"),
        ("algorithm.name=grpo", "algorithm.name=grpo: its fields are another algorithm's"),
        ("algorithm.name=mine", "algorithm.name=mine: its fields are another algorithm's"),
        ("ordering.name=nope", "ordering.name=nope: there is: fair_share, fifo"),
        ("packing.name=nope", "packing.name=nope: there is: best_fit, dot_product"),
        ("packing.cpu_weight=2", "packing.cpu_weight=2.0: use a number from 0 (only devices count) to 1"),
        ("+packing.seed=1", "packing.seed=1: unknown key; there is: cpu_weight, name"),
        ("stopping.name=nope", "stopping.name=nope: there is: hyperband, median, never, successive_halving, wilcoxon"),
        ("tracking.name=nope", "tracking.name=nope: there is: memory, mlflow"),
        ("task.options.nope=1", "task.options.nope=1: unknown key; a key of your own is added with a plus"),
        ("recipe.stages.main.algorithm.max_steps=1", "recipe.stages.main.algorithm.max_steps=1: unknown key; a stage"),
        ("recipe.stages.main.algorithm=3", "recipe.stages.main.algorithm=3: choose it by its group"),
        ("recipe.stages.main=3", "recipe.stages.main=3: a stage has"),
    ],
)
def test_a_wrong_override_is_refused_in_words(override: str, message: str) -> None:
    assert refused(override).startswith(message)


def test_a_group_of_one_completion_is_refused() -> None:
    assert refused("algorithm=grpo", "algorithm.group_size=1").startswith("algorithm.group_size=1: use at least 2")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stopping.confidence=1.0", "stopping.confidence=1.0: use a number from 0.5"),
        ("stopping.grace.grpo=2", "stopping.grace.grpo=2.0: use a fraction of the budget, 0 to 1"),
        ("stopping.resource=epochs", "stopping.resource=epochs: use device_seconds, tokens, steps"),
        ("+stopping.brackets=2", "stopping.brackets=2: unknown key; there is: confidence, finish_share"),
    ],
)
def test_a_stopping_policy_that_could_not_judge_is_refused(override: str, message: str) -> None:
    assert refused("stopping=median", override).startswith(message)


def test_a_popularity_of_nothing_is_refused() -> None:
    message = refused("packing=fragmentation", "packing.popularity=0")
    assert message.startswith("packing.popularity=0.0: use a fraction above 0")


def test_a_missing_data_file_is_refused() -> None:
    assert refused("task=jsonl", "task.path=/nowhere.jsonl").startswith("task.path='/nowhere.jsonl': no such file")


def test_a_missing_data_file_is_refused_even_where_nothing_reads_it() -> None:
    assert refused("task=gcd", "task.path=/nowhere.jsonl").startswith("task.path='/nowhere.jsonl': no such file")


def test_a_data_file_that_nobody_named_is_refused() -> None:
    assert refused("task=jsonl").startswith("task.path='': no such file; give one")


def test_a_global_batch_that_does_not_split_over_the_gang_is_refused() -> None:
    message = refused("algorithm.batch_size=31", "cluster.devices_per_trial=2")
    assert "algorithm.batch_size=31: use a multiple of" in message
