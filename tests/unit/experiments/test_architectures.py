"""Stages of decoders with latent attention and experts: what holds for every stage holds for them too."""

import pytest
import torch

from tests.unit.experiments.stage_runs import (
    ALGORITHMS,
    assert_close_weights,
    assert_same_weights,
    run_stage,
    stage_data,
    write_problems,
)

SHAPE = {"attention": "mla", "kv_rank": 8, "rope_dim": 4, "ffn": "moe", "experts": 4, "d_expert": 12, "bias_rate": 0.05}
BIASES = "layers.0.feed_forward.bias_steps"


def sft(folder, *, shape=SHAPE, deepspeed=None, **options):
    data = stage_data(write_problems(folder), ALGORITHMS["sft"], deepspeed=deepspeed or {})
    return run_stage(folder, {**data, "model": {**data["model"], **shape}}, **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    (result,) = sft(tmp_path_factory.mktemp("alone"))
    return result


def test_biases_are_learned_and_written(alone):
    assert alone.weights[BIASES].any()


def test_a_stage_that_is_stopped_and_resumed_is_the_uninterrupted_one_bit_for_bit(alone, tmp_path):
    sft(tmp_path, stop_at=5)
    (resumed,) = sft(tmp_path)
    assert_same_weights(alone, resumed)


def test_accumulated_micro_batches_move_the_biases_once_a_step(alone, tmp_path):
    (accumulated,) = sft(tmp_path, deepspeed={"gradient_accumulation_steps": 2})
    assert_close_weights(alone, accumulated, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_gang_balances_by_what_all_of_it_has_seen(alone, tmp_path, stage):
    first, second = sft(tmp_path, deepspeed={"zero_optimization": {"stage": stage}}, world_size=2)
    assert_close_weights(alone, first, atol=2e-5, rtol=1e-4)
    assert first.outcome.metrics["accuracy"] == second.outcome.metrics["accuracy"]


def test_an_auxiliary_loss_changes_what_is_learned_and_leaves_the_biases(alone, tmp_path):
    (balanced,) = sft(tmp_path, shape={**SHAPE, "balancing": "auxiliary", "auxiliary_weight": 0.5})
    assert not balanced.weights[BIASES].any()
    router = "layers.0.feed_forward.router.weight"
    assert not torch.allclose(balanced.weights[router], alone.weights[router], atol=1e-3)
