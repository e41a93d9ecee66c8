"""What experts that are computed by themselves, and weights that are rounded in every pass, change of the estimate."""

import pytest
import torch

from experiments.models.decoder import Decoder
from experiments.models.quantization import fake_quantize
from orchestrator.estimate import stage_footprint
from orchestrator.schema import DeviceKind
from orchestrator.schema.decoder_sizes import chosen_experts_pay, parameter_count
from orchestrator.schema.training import FeedForwardKind, ModelConfig, StageConfig, Weights, stage_config
from orchestrator.sweep import compose_study


def last_stage(*overrides: str) -> StageConfig:
    return stage_config(compose_study(overrides).variants[0].stages[-1].config)


def test_experts_that_are_computed_for_their_own_tokens_keep_less_where_that_pays() -> None:
    few, many = (last_stage("ffn=moe", f"model.experts={experts}", "algorithm=sft") for experts in (8, 64))
    on_cpu, on_gpu = (stage_footprint(many, kind) for kind in (DeviceKind.CPU, DeviceKind.CUDA))
    assert on_cpu.learning < on_gpu.learning / 3
    assert on_cpu.evaluation < on_gpu.evaluation / 3
    small = stage_footprint(last_stage("ffn=moe", "algorithm=sft", "algorithm.batch_size=1"), DeviceKind.CPU)
    assert small.learning == stage_footprint(few, DeviceKind.CUDA).learning / 32  # all are computed of so few tokens


@pytest.mark.parametrize("learning", [False, True])
def test_chosen_experts_pay_from_some_number_of_tokens_on(learning: bool) -> None:
    """A rule that went to and fro would be none. A single token is computed in another way."""
    for experts, d_model, d_expert in ((8, 64, 44), (64, 64, 44), (8, 256, 176), (64, 256, 176)):
        model = ModelConfig(d_model=d_model, d_expert=d_expert, experts=experts, ffn=FeedForwardKind.moe)
        chosen = [chosen_experts_pay(model, rows, learning=learning) for rows in range(2, 2000)]
        assert chosen == sorted(chosen)
        assert chosen[-1]


def test_rounded_weights_are_a_copy_of_the_weights() -> None:
    plain, aware = (
        stage_footprint(last_stage("recipe=warm_start", f"algorithm={name}"), DeviceKind.CPU)
        for name in ("sft", "quantization_aware_sft")
    )
    assert aware.copies - plain.copies == 4 * parameter_count(last_stage().model, 128)


@pytest.mark.parametrize("weights", [Weights.int8, Weights.int4])
def test_that_copy_is_what_autograd_keeps(weights: Weights) -> None:
    """Of linear layers, which is nearly all of a model; what comes before a code is not kept."""
    config = ModelConfig()
    kept = []
    for rounding in (Weights.none, weights):
        decoder, found = Decoder(config, 98), dict[int, int]()
        fake_quantize(decoder, rounding)
        own = {parameter.untyped_storage().data_ptr() for parameter in decoder.parameters()}
        alive = []

        def keep(
            tensor: torch.Tensor, found: dict[int, int] = found, alive: list[torch.Tensor] = alive
        ) -> torch.Tensor:
            alive.append(tensor)
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = decoder(torch.arange(3, 9).view(1, 6), torch.arange(6))
        kept.append(sum(size for at, size in found.items() if at not in own))
        del logits
    copy = 4 * parameter_count(config, 98)
    assert 0.8 * copy < kept[1] - kept[0] <= copy
