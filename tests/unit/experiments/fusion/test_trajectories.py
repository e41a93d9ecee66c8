"""Fused = solo: loss, reward and weights of every step, against the solo stages themselves."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.experiments.fusion.beside import compare_every_step
from tests.unit.experiments.fusion.drawn import DRAWN, calm_knobs, knobs
from tests.unit.experiments.fusion.fused_runs import (
    GRPO,
    SFT,
    STEPS,
    assert_same_trajectory,
    run_fused,
    run_solo,
    variant,
    variants,
)

ALGORITHMS = {"sft": SFT, "grpo": GRPO}
BOTH = pytest.mark.parametrize("algorithm", ["sft", "grpo"])


def compare(folder, datas, parent):
    solo, fused = run_solo(folder, datas, parent), run_fused(folder, datas, parent)
    for number, result in enumerate(solo):
        assert len(fused.series[str(number)]) == STEPS
        assert_same_trajectory(fused, str(number), result)
    return fused


@BOTH
def test_two_members_go_the_ways_they_go_alone(study, tmp_path, algorithm):
    _, even, _, parent = study
    fused = compare(tmp_path, variants(even, ALGORITHMS[algorithm], 2), parent)
    assert fused.values("0", "train/loss") != fused.values("1", "train/loss")


@BOTH
def test_every_step_is_the_step_that_the_solo_stage_makes_from_there(study, tmp_path, algorithm):
    """Whatever rounding grows to over fifty steps: eight members, each update of each step from the solo stage's own
    state."""
    _, _, mixed, parent = study
    compare_every_step(tmp_path, variants(mixed, ALGORITHMS[algorithm], 8, calm=False), parent)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 8])
@BOTH
def test_members_of_other_widths_go_the_ways_they_go_alone(study, tmp_path, algorithm, width):
    _, even, _, parent = study
    compare(tmp_path, variants(even, ALGORITHMS[algorithm], width), parent)


@pytest.mark.slow
@BOTH
def test_padding_to_the_longest_of_all_members_changes_nothing_but_rounding(study, tmp_path, algorithm):
    _, _, mixed, parent = study
    compare(tmp_path, variants(mixed, ALGORITHMS[algorithm], 2), parent)


def test_members_that_sample_on_go_the_ways_they_go_alone(study, tmp_path):
    """Each for as many rounds as it needs; what their completions' lengths cost them is their own too."""
    _, even, _, parent = study
    knobs = (
        {"max_sampling_rounds": 3, "aggregation": "token", "overlong_buffer": 2, "mask_truncated": True},
        {"length_penalty": 0.2, "importance_level": "sequence", "clip_high": 0.02},
        {"max_sampling_rounds": 2, "baseline": "leave_one_out", "advantage_scale": "none", "kl_weight": 0.1},
    )
    datas = [variant(even, {**GRPO, "name": "dapo"}, seed, lr=3e-4, **these) for seed, these in enumerate(knobs)]
    fused = compare(tmp_path, datas, parent)
    for member, most in (("0", 3), ("2", 2)):
        rounds = fused.values(member, "train/sampling_rounds")
        assert min(rounds) < max(rounds) == most  # how few it ever needs is the warm-up's, and another on each machine
    assert not fused.values("1", "train/sampling_rounds")


def test_grpo_members_learn_and_skip_by_themselves(study, tmp_path):
    """The comparison above is of runs in which there is something to compare."""
    _, even, _, parent = study
    run = run_fused(tmp_path, variants(even, {**GRPO, "max_steps": 20}, 2), parent)
    for member in ("0", "1"):
        skipped = run.values(member, "train/groups_skipped")
        assert min(skipped) < GRPO["prompts_per_step"]
        assert len(set(skipped)) > 1
        assert max(run.values(member, "train/reward")) > 0.0
    assert run.values("0", "train/groups_skipped") != run.values("1", "train/groups_skipped")


SEEDS = st.lists(st.integers(0, 1000), min_size=2, max_size=3, unique=True)


def compare_drawn(study, folder, algorithm, data):
    _, even, _, parent = study
    datas = [variant(even, ALGORITHMS[algorithm], s, **data.draw(calm_knobs(algorithm))) for s in data.draw(SEEDS)]
    compare(folder, datas, parent)


@BOTH
@given(data=st.data())
@settings(DRAWN, max_examples=1)
def test_drawn_hyperparameters(study, tmp_path_factory, algorithm, data):
    compare_drawn(study, tmp_path_factory.mktemp("drawn"), algorithm, data)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@BOTH
@given(data=st.data())
@settings(DRAWN, max_examples=20)
def test_many_drawn_hyperparameters(study, tmp_path_factory, algorithm, data):
    compare_drawn(study, tmp_path_factory.mktemp("drawn"), algorithm, data)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@BOTH
@given(data=st.data())
@settings(DRAWN, max_examples=20)
def test_every_step_of_drawn_hyperparameters(study, tmp_path_factory, algorithm, data):
    _, _, mixed, parent = study
    datas = [variant(mixed, ALGORITHMS[algorithm], s, **data.draw(knobs(algorithm))) for s in data.draw(SEEDS)]
    compare_every_step(tmp_path_factory.mktemp("drawn"), datas, parent)
