import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.schema import TrialState
from orchestrator.tracking import runs
from tests.unit.orchestrator.builders import study, warm_started

CONFIGS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("ab"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text("xyz", min_size=1), CONFIGS, max_size=4))
def test_the_yaml_reads_back_as_the_config(config: dict[str, object]) -> None:
    import yaml

    assert yaml.safe_load(runs.config_yaml(config)) == config


def test_enums_and_tuples_become_plain() -> None:
    assert runs.config_yaml({"state": TrialState.QUEUED, "pair": (1, 2)}) == "state: queued\npair:\n- 1\n- 2\n"
    assert runs.flatten({"state": TrialState.QUEUED, "pair": (1, 2), "empty": {}}) == {
        "state": "queued",
        "pair": "[1, 2]",
        "empty": "{}",
    }


def test_a_run_name_says_what_was_swept_and_is_cut_to_fit() -> None:
    trial = warm_started(1)[0]
    variant = replace(trial.variant, algorithm="sft", overrides=("algorithm=sft", "optimizer.lr=0.001"))
    assert runs.run_name(replace(trial, variant=variant)) == "000 sft lr=0.001"
    long = replace(variant, overrides=("x" * 500,))
    assert len(runs.run_name(replace(trial, variant=long))) == runs.MAX_RUN_NAME_CHARS


def test_overrides_that_end_in_the_same_word_keep_their_whole_names_in_a_run_name() -> None:
    trial = warm_started(1)[0]
    overrides = ("algorithm.max_steps=5", "warmup.max_steps=9", "model.width=64")
    variant = replace(trial.variant, algorithm="grpo", overrides=overrides)
    name = runs.run_name(replace(trial, variant=variant))
    assert name == "000 grpo algorithm.max_steps=5 warmup.max_steps=9 width=64"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(18.49356408417225, 18.49356), (0.0113378676875, 0.01133787), (0.9625, 0.9625), (123456789.0, 123456789.0)],
)
def test_a_final_value_has_the_digits_that_a_cell_holds(value: float, shown: float) -> None:
    assert runs.readable({"value": value}) == {"value": shown}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_final_value_that_is_no_number_stays(value: float) -> None:
    assert str(runs.readable({"value": value})["value"]) == str(value)


def test_a_short_error_is_kept_and_a_long_one_keeps_its_end() -> None:
    assert runs.shorten_error(" boom\n") == "boom"
    assert runs.shorten_error("x" * 999 + "the cause").endswith("the cause")
    assert len(runs.shorten_error("x" * 999)) == runs.MAX_ERROR_TAG_CHARS


def test_a_study_outside_a_repository_has_no_revision_tag() -> None:
    assert not {"git revision", "mlflow.source.git.commit"} & set(runs.study_tags(study()))


@pytest.mark.parametrize(("stage_index", "progress", "step"), [(0, 0.5, 0), (1, 0.0, 0), (1, 0.5, 15), (2, 0.0, 30)])
def test_final_metrics_stand_where_the_last_stage_came_to(stage_index: int, progress: float, step: int) -> None:
    trial = replace(warm_started(1)[0], stage_index=stage_index, progress=progress)
    assert runs.final_step(trial) == step


def test_a_study_without_trials_is_not_killed() -> None:
    assert runs.study_status([]) == "FINISHED"


def test_a_device_that_is_not_known_yet_has_an_empty_tag() -> None:
    assert runs.study_tags(replace(study(), device_kind=None))["device_kind"] == ""


def test_every_state_has_a_status() -> None:
    assert set(runs.STATUS_OF) == set(TrialState)
