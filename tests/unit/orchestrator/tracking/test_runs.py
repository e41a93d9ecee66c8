from dataclasses import replace

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
    assert runs.run_name(replace(trial, variant=variant)) == "000 sft optimizer.lr=0.001"
    long = replace(variant, overrides=("x" * 500,))
    assert len(runs.run_name(replace(trial, variant=long))) == runs.MAX_RUN_NAME_CHARS


def test_a_short_error_is_kept_and_a_long_one_keeps_its_end() -> None:
    assert runs.shorten_error(" boom\n") == "boom"
    assert runs.shorten_error("x" * 999 + "the cause").endswith("the cause")
    assert len(runs.shorten_error("x" * 999)) == runs.MAX_ERROR_TAG_CHARS


def test_a_study_outside_a_repository_has_no_revision_tag() -> None:
    assert not {"git_revision", "mlflow.source.git.commit"} & set(runs.study_tags(study()))


def test_every_state_has_a_status() -> None:
    assert set(runs.STATUS_OF) == set(TrialState)
