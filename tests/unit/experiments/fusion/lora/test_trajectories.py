"""Fused = solo: loss, gradient norm, reward and weights of every step, against peft's model trained alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.experiments.fusion.drawn import DRAWN, calm_knobs
from tests.unit.experiments.fusion.fused_runs import GRPO, SERIES, SFT, STEPS, variant, variants
from tests.unit.experiments.fusion.lora.lora_runs import SHAPES, run_fused, run_solo_grpo, run_solo_sft

WEIGHTS = {"atol": 5e-5, "rtol": 1e-3}
"""Fused and solo differ in the order of sums: padding, and one matrix product of the base for all members' rows."""

WIDTHS = [1, 2, pytest.param(8, marks=pytest.mark.slow)]
SHORT_GRPO = {**GRPO, "max_steps": 12}


def assert_same(fused, solos):
    for number, solo in enumerate(solos):
        for name, values in solo.series.items():
            mine = fused.values(str(number), name)
            torch.testing.assert_close(
                torch.tensor(mine), torch.tensor(values), msg=lambda text, name=name: f"{name}: {text}", **SERIES
            )
        weights = solo.model.adapter().weights
        assert fused.weights[str(number)].keys() == weights.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(fused.weights[str(number)][name], weight, **WEIGHTS)


def compare(lora_study, run_solo, datas, problems, shapes=SHAPES):
    _, _, tasks, model = lora_study
    solos = [run_solo(model, tasks[problems], d, *shape) for d, shape in zip(datas, shapes, strict=False)]
    fused = run_fused(model, tasks[problems], datas, shapes)
    assert_same(fused, solos)
    return fused, solos


@pytest.mark.parametrize("width", WIDTHS)
def test_sft_members_of_other_ranks_and_alphas_go_the_ways_they_go_alone(lora_study, width):
    fused, solos = compare(lora_study, run_solo_sft, variants(lora_study[0], SFT, width), lora_study[0])
    assert len(fused.series["0"]) == STEPS
    for solo in solos:
        assert (
            max(weight.abs().max() for name, weight in solo.model.adapter().weights.items() if "lora_B" in name) > 0.01
        )


@pytest.mark.parametrize("width", WIDTHS)
def test_grpo_members_go_the_ways_they_go_alone(lora_study, width):
    datas = variants(lora_study[0], SHORT_GRPO, width)
    fused, solos = compare(lora_study, run_solo_grpo, datas, lora_study[0])
    for number, data in enumerate(datas):
        worst = -1.0 if data["algorithm"].get("overlong_buffer") else 0.0  # of completions that are all wrong
        assert max(fused.values(str(number), "train/reward")) > worst
    assert all(len(solo.series["train/loss"]) > 3 for solo in solos)


@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
def test_padding_to_the_longest_of_all_members_changes_nothing_but_rounding(lora_study, algorithm):
    run_solo, shape = {"sft": (run_solo_sft, SFT), "grpo": (run_solo_grpo, SHORT_GRPO)}[algorithm]
    compare(lora_study, run_solo, variants(lora_study[1], {**shape, "max_steps": 10}, 2), lora_study[1])


SIZES = st.lists(st.tuples(st.integers(1, 8), st.floats(0.5, 32.0)), min_size=2, max_size=3)


def compare_drawn(lora_study, algorithm, data):
    run_solo, shape = {"sft": (run_solo_sft, SFT), "grpo": (run_solo_grpo, SHORT_GRPO)}[algorithm]
    shapes = data.draw(SIZES)
    datas = [variant(lora_study[0], shape, n, **data.draw(calm_knobs(algorithm))) for n in range(len(shapes))]
    compare(lora_study, run_solo, datas, lora_study[0], shapes)


@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
@given(data=st.data())
@settings(DRAWN, max_examples=1)
def test_drawn_hyperparameters(lora_study, algorithm, data):
    compare_drawn(lora_study, algorithm, data)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
@given(data=st.data())
@settings(DRAWN, max_examples=15)
def test_many_drawn_hyperparameters(lora_study, algorithm, data):
    compare_drawn(lora_study, algorithm, data)
