"""Fused = solo for latent attention and experts, whose layers a stack computes in other operations than a decoder."""

import pytest
import torch

from experiments.fusion.bundle import SoloProgress
from experiments.fusion.decoder import StackedDecoder
from experiments.fusion.stack import pack_all
from experiments.models.shared_prompt import completion_logits
from orchestrator.schema.training import stage_config
from tests.unit.experiments.decoders import VOCAB, small_decoder
from tests.unit.experiments.fusion.fused_runs import (
    GRPO,
    SFT,
    WEIGHTS,
    assert_same_trajectory,
    bundle_of,
    initial,
    run_fused,
    run_solo,
    variants,
)

MLA = {"attention": "mla", "kv_rank": 8, "rope_dim": 4}
MOE = {"ffn": "moe", "experts": 4, "d_expert": 12, "bias_rate": 0.05}
SHAPES = {
    "mla": MLA,
    "mla-latent-queries": {**MLA, "query_rank": 6},
    "moe": MOE,
    "moe-auxiliary": {**MOE, "balancing": "auxiliary", "auxiliary_weight": 0.5},
    "mla-moe": {**MLA, **MOE},
}
EACH = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def members(shape, count=3):
    decoders = [small_decoder(seed, **shape) for seed in range(count)]
    for seed, decoder in enumerate(decoders):
        for experts in decoder.experts:
            experts.bias_steps.random_(-9, 9, generator=torch.Generator().manual_seed(seed))
    return decoders


def datas_of(problems, algorithm, shape, width, steps):
    datas = variants(problems, {**algorithm, "max_steps": steps}, width)
    return [{**data, "model": {**data["model"], **shape}} for data in datas]


@EACH
def test_logits_and_gradients_are_those_of_the_members(shape):
    torch.manual_seed(0)
    decoders = members(shape)
    stack = StackedDecoder.of(decoders)
    prompts, completions = torch.randint(1, VOCAB, (6, 5)), torch.randint(1, VOCAB, (12, 4))
    padding = torch.tensor([0, 1, 2, 0, 3, 1])
    for row, count in enumerate(padding.tolist()):
        prompts[row, :count] = 0
    logits = completion_logits(stack, prompts, completions, padding)
    parts = zip(decoders, prompts.chunk(3), completions.chunk(3), padding.chunk(3), strict=True)
    alone = torch.cat([completion_logits(*part) for part in parts])
    torch.testing.assert_close(logits, alone, atol=5e-5, rtol=1e-4)
    upstream = torch.randn_like(logits)
    for some in (logits, alone):
        some.backward(upstream)
    gradients = [{name: weight.grad for name, weight in decoder.named_parameters()} for decoder in decoders]
    beside = {name: torch.zeros(()) for name in stack.layout.beside}
    expected = pack_all(stack.layout, [{**gradient, **beside} for gradient in gradients])
    torch.testing.assert_close(stack.weights.grad, expected, atol=1e-3, rtol=1e-3)


@EACH
def test_a_stack_takes_members_in_and_gives_them_back_whole(shape):
    decoders = members(shape)
    back = StackedDecoder.of(decoders).select([2, 0]).decoder(0).state_dict()
    for name, tensor in decoders[2].state_dict().items():
        torch.testing.assert_close(back[name], tensor, atol=0, rtol=0)


# Where a gradient is the rounding of advantages that add up to nothing, Adam makes a step of full size of it: a
# thousandth here. It is so for an embedding or two in a thousand.
ROUNDED = {"atol": 2e-3, "rtol": 1e-2}


def compare(folder, datas, parent="", weights=WEIGHTS):
    solo, fused = run_solo(folder, datas, parent), run_fused(folder, datas, parent or None)
    for number, result in enumerate(solo):
        assert_same_trajectory(fused, str(number), result, weights)
    return fused


def test_supervised_members_go_the_ways_they_go_alone(study, tmp_path):
    _, _, mixed, _ = study
    fused = compare(tmp_path, datas_of(mixed, SFT, SHAPES["mla-moe"], 2, steps=20))
    steps = [fused.weights[name]["layers.0.feed_forward.bias_steps"] for name in ("0", "1")]
    assert all(some.any() for some in steps)
    assert not steps[0].equal(steps[1])


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 2])
@EACH
def test_supervised_members_of_each_shape_go_the_ways_they_go_alone(study, tmp_path, shape, width):
    _, _, mixed, _ = study
    compare(tmp_path, datas_of(mixed, SFT, shape, width, steps=40))


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 2])
@EACH
def test_reinforced_members_of_each_shape_go_the_ways_they_go_alone(study, tmp_path, shape, width):
    """From a warm-up of the same shape, which is right now and then, so that there is something to learn."""
    _, even, _, _ = study
    (warm_up,) = datas_of(even, {**SFT, "batch_size": 16}, shape, 1, steps=150)
    run_solo(tmp_path / "warm-up", [{**warm_up, "optimizer": {"lr": 1e-2}}], "")
    parent = tmp_path / "warm-up" / "solo-0" / "output"
    fused = compare(tmp_path, datas_of(even, GRPO, shape, width, steps=4), parent, ROUNDED)
    assert any(step.get("train/grad_norm") for step in fused.series["0"])


def test_members_that_come_and_go_keep_their_biases(study, tmp_path):
    _, even, _, _ = study
    datas = {str(n): data for n, data in enumerate(datas_of(even, SFT, MOE, 3, steps=9))}
    bundle = bundle_of(tmp_path, {name: datas[name] for name in ("0", "1")}, None)
    for _ in range(5):
        bundle.step()
    before = bundle.state("1").decoder.state_dict()["layers.0.feed_forward.bias_steps"]
    assert before.any()
    departed = bundle.take_out("1")
    bundle.drop(["0"])
    bundle.put_in("2", SoloProgress(stage_config(datas["2"])), initial(datas["2"], None))
    bundle.put_in("1", departed.member, departed.decoder, departed.decoder, departed.moments)
    after = bundle.engine.stack.member_state(bundle.place("1"))["layers.0.feed_forward.bias_steps"]
    torch.testing.assert_close(after, before)
    fresh = bundle.engine.stack.member_state(bundle.place("2"))["layers.0.feed_forward.bias_steps"]
    assert not fresh.any()
