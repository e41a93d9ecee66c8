"""Stages whose experts are computed for their own tokens only: what holds for every stage holds there too."""

import pytest

from orchestrator.schema.decoder_sizes import chosen_experts_pay
from orchestrator.schema.training import stage_config
from tests.unit.experiments.fusion.fused_runs import SFT, variants, write_even_problems
from tests.unit.experiments.stage_runs import assert_close_weights, assert_same_weights, run_stage
from tests.unit.experiments.test_fused import compare

MODEL = {"d_model": 32, "ffn": "moe", "experts": 64, "d_expert": 64, "bias_rate": 0.05}
STEPS, BATCH, ROWS = 8, 32, 8


def datas_of(folder, width=1, deepspeed=None):
    """With an eps that keeps Adam from making full steps of gradients that are rounding."""
    algorithm = {**SFT, "max_steps": STEPS, "batch_size": BATCH}
    datas = variants(write_even_problems(folder), algorithm, width)
    return [
        {
            **data,
            "model": {**data["model"], **MODEL},
            "deepspeed": {**data["deepspeed"], **(deepspeed or {})},
            "optimizer": {**data["optimizer"], "eps": 1e-4},
        }
        for data in datas
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    (result,) = run_stage(folder, datas_of(folder)[0])
    return result


def test_the_shape_is_one_whose_chosen_experts_are_computed_alone(tmp_path):
    """For a process of two as well."""
    model = stage_config(datas_of(tmp_path)[0]).model
    assert chosen_experts_pay(model, BATCH // 2 * ROWS, learning=True)


def test_a_stage_that_is_stopped_and_resumed_is_the_uninterrupted_one_bit_for_bit(alone, tmp_path):
    (data,) = datas_of(tmp_path)
    run_stage(tmp_path, data, stop_at=5)
    (resumed,) = run_stage(tmp_path, data)
    assert_same_weights(alone, resumed)
    assert alone.weights["layers.0.feed_forward.bias_steps"].any()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_gang_computes_what_one_process_does(alone, tmp_path, stage):
    (data,) = datas_of(tmp_path, deepspeed={"zero_optimization": {"stage": stage}})
    first, _ = run_stage(tmp_path, data, world_size=2)
    assert_close_weights(alone, first, atol=2e-5, rtol=1e-4)


def test_members_of_a_stack_end_as_they_do_alone(tmp_path):
    compare(tmp_path, datas_of(tmp_path, width=2), "")
