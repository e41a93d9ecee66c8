"""Where trunks are cut, and what each variant goes through."""

import pytest

from orchestrator.config import ConfigError
from orchestrator.schema import Variant
from orchestrator.sweep import compose_study
from orchestrator.sweep.trunks import share_trunks

WSD = ["optimizer.schedule=wsd", "algorithm.max_steps=200"]


def variants(*overrides: str) -> tuple[Variant, ...]:
    return compose_study(["recipe=from_scratch", "algorithm=grpo", *overrides]).variants


def ways(shared: tuple[Variant, ...]) -> list[list[tuple[int, int]]]:
    """(where it starts, where it ends) of each stage."""
    return [[(stage.budget_steps - stage.own_steps, stage.budget_steps) for stage in v.stages] for v in shared]


def test_longer_runs_continue_shorter_ones() -> None:
    shared = share_trunks(variants("algorithm.max_steps=100,200,50"))
    assert ways(shared) == [[(0, 50), (50, 100)], [(0, 50), (50, 100), (100, 200)], [(0, 50)]]


def test_many_decays_branch_off_one_stable_phase() -> None:
    shared = share_trunks(variants(*WSD, "optimizer.decay_steps=40", "optimizer.decay=linear,sqrt"))
    assert ways(shared) == [[(0, 160), (160, 200)]] * 2
    assert shared[0].stages[0] is shared[1].stages[0]
    assert shared[0].stages[0].config["optimizer"]["schedule"] == "constant"


def test_decays_that_begin_at_different_steps_share_up_to_the_first() -> None:
    shared = share_trunks(variants(*WSD, "optimizer.decay_steps=20,80,50"))
    assert ways(shared) == [
        [(0, 120), (120, 150), (150, 200)],
        [(0, 120), (120, 200)],
        [(0, 120), (120, 150), (150, 200)],
    ]


def test_a_constant_run_is_the_trunk_of_a_decay() -> None:
    constant = variants("algorithm.max_steps=160")
    shared = share_trunks((*constant, *variants(*WSD, "optimizer.decay_steps=40")))
    assert ways(shared) == [[(0, 160)], [(0, 160), (160, 200)]]
    assert shared[1].stages[0] is shared[0].stages[0]


def test_sharing_changes_no_key_and_no_config_of_what_was_asked_for() -> None:
    asked = variants("algorithm.max_steps=100,200", "optimizer.schedule=constant,wsd")
    for before, after in zip(asked, share_trunks(asked), strict=True):
        assert (after.key, after.config, after.overrides) == (before.key, before.config, before.overrides)
        assert (after.stages[-1].key, after.stages[-1].config) == (before.stages[-1].key, before.stages[-1].config)


def test_a_cut_has_one_key_however_the_trunk_was_cut_before_it() -> None:
    one = share_trunks(variants("algorithm.max_steps=100,200"))
    other = share_trunks(variants("algorithm.max_steps=30,70,100,150,200"))
    assert {s.key for v in one for s in v.stages} <= {s.key for v in other for s in v.stages}


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm.max_steps=200"],
        ["algorithm.max_steps=200", "seed=0,1"],
        [*WSD, "optimizer.lr=1e-3,2e-3"],
        ["algorithm.max_steps=100,200", "optimizer.schedule=cosine"],
        ["algorithm.max_steps=100,200", "algorithm.continues=false"],
    ],
)
def test_nothing_is_cut_where_nobody_shares(overrides: list[str]) -> None:
    asked = variants(*overrides)
    assert share_trunks(asked) == asked


def test_a_trunk_that_was_left_is_gone_on_with_from_its_last_end_at_hand() -> None:
    asked = variants("algorithm.max_steps=60,200")
    shared = share_trunks(asked, lambda trunk: {20, 100, 150, 400})
    assert ways(shared) == [[(0, 20), (20, 60)], [(0, 150), (150, 200)]]


def test_an_end_at_hand_that_a_variant_is_about_is_trained_anew_by_it() -> None:
    asked = variants("algorithm.max_steps=100,200")
    shared = share_trunks(asked, lambda trunk: {50, 100})
    assert ways(shared) == [[(0, 50), (50, 100)], [(0, 50), (50, 100), (100, 200)]]


def test_warm_ups_of_different_lengths_share_too() -> None:
    asked = compose_study(["algorithm=grpo", "recipe.stages.warmup.algorithm.max_steps=10,20"]).variants
    shared = share_trunks(asked)
    assert [[stage.name for stage in v.stages] for v in shared] == [["warmup", "main"], ["warmup", "warmup", "main"]]
    assert [v.stages[-1].parent_key == v.stages[-2].key for v in shared] == [True, True]
    assert [[s.name for s in v.before_last] for v in shared] == [["warmup"], ["warmup", "warmup"]]


def test_a_variant_that_shares_no_trunks_leaves_no_state() -> None:
    (alone,) = variants("study.share_trunks=false")
    assert not alone.stages[-1].leaves_state
    assert variants()[0].stages[-1].leaves_state


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ([*WSD, "optimizer.decay_steps=200"], "optimizer.decay_steps"),
        ([*WSD, "optimizer.warmup_steps=150", "optimizer.decay_fraction=0.5"], "optimizer.decay_fraction"),
        (["optimizer.decay_fraction=0"], "optimizer.decay_fraction"),
        (["optimizer.decay_steps=-1"], "optimizer.decay_steps"),
        (["cache=bounded", "cache.min_age_s=5"], "cache.min_age_s"),
    ],
)
def test_a_decay_that_does_not_fit_is_refused(overrides: list[str], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        variants(*overrides)
