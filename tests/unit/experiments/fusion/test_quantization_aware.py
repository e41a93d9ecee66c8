"""Members that learn with rounded weights: the same codes as alone, bit for bit, and every step the solo stage's."""

import pytest
import torch

from experiments.fusion.decoder import StackedDecoder
from experiments.models.multi_token import new_decoder
from experiments.models.quantization import fake_quantize, quantized_weights
from experiments.models.shared_prompt import completion_logits
from orchestrator.schema.training import ModelConfig, PredictionConfig, PredictionKind, Weights
from tests.unit.experiments.decoders import VOCAB
from tests.unit.experiments.fusion.beside import (
    assert_same_step,
    assert_same_updates,
    run_fused_beside,
    run_solo_seen,
)
from tests.unit.experiments.fusion.fused_runs import (
    SFT,
    assert_same_trajectory,
    run_fused,
    run_solo,
    variants,
)

QAT = {**SFT, "name": "quantization_aware_sft"}
BITS = pytest.mark.parametrize("weights", ["int8", "int4"])
SHAPES = {
    "heads": {},
    "untied": {"tie_embeddings": False},
    "mla-moe": {"attention": "mla", "kv_rank": 8, "rope_dim": 4, "ffn": "moe", "experts": 4, "d_expert": 12},
    "modules": {"prediction": PredictionConfig(PredictionKind.multi_token, 1)},
}


def members(shape, weights, count=3):
    """Decoders whose weights matter, as they are trained alone."""
    config = ModelConfig(**{"d_model": 32, "layers": 2, "heads": 4, "kv_heads": 2, "d_ff": 44, **shape})
    decoders = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        decoder = new_decoder(config, VOCAB, generator)
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        fake_quantize(decoder, Weights(weights))
        decoders.append(decoder)
    return decoders


def seen_by(decoder):
    """What a decoder computes with, by name."""
    weights = {}
    for name, learned in decoder.named_parameters():
        module, _, last = name.rpartition(".")
        weights[name] = getattr(decoder.get_submodule(module), last) if name in quantized_weights(decoder) else learned
    return weights


@BITS
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_rounded_weights_are_those_of_the_members_bit_for_bit(shape, weights):
    decoders = members(shape, weights)
    stack = StackedDecoder.of(decoders).fake_quantize(Weights(weights))
    named, rounded = stack.named_weights(), 0
    for number, decoder in enumerate(decoders):
        for name, weight in seen_by(decoder).items():
            torch.testing.assert_close(named[name][number], weight, atol=0, rtol=0)
            rounded += not torch.equal(weight, decoder.state_dict()[name])
    assert rounded == len(decoders) * len(quantized_weights(decoders[0]))
    assert torch.equal(named["embedding.weight"], stack.layout.pieces(stack.weights)[0])


@BITS
def test_logits_and_gradients_are_those_of_the_members(weights):
    torch.manual_seed(0)
    decoders = members({}, weights)
    stack = StackedDecoder.of(decoders).fake_quantize(Weights(weights))
    prompts, completions = torch.randint(1, VOCAB, (6, 5)), torch.randint(1, VOCAB, (12, 4))
    logits = completion_logits(stack, prompts, completions, None)
    alone = torch.cat(
        [completion_logits(*part, None) for part in zip(decoders, prompts.chunk(3), completions.chunk(3), strict=True)]
    )
    torch.testing.assert_close(logits, alone, atol=5e-5, rtol=1e-4)
    upstream = torch.randn_like(logits)
    for some in (logits, alone):
        some.backward(upstream)
    for number, decoder in enumerate(decoders):
        gradients = stack.layout.unpack(stack.weights.grad[number])
        for name, weight in decoder.named_parameters():
            torch.testing.assert_close(gradients[name], weight.grad, atol=1e-3, rtol=1e-3)


def test_who_is_chosen_or_taken_out_computes_as_the_stack_does():
    decoders = members({}, "int4")
    stack = StackedDecoder.of(decoders).fake_quantize(Weights.int4)
    tokens, positions = torch.randint(1, VOCAB, (2, 5)), torch.arange(5)
    with torch.no_grad():
        expected = decoders[2](tokens, positions)
        assert torch.equal(stack.decoder(2)(tokens, positions), expected)
        torch.testing.assert_close(stack.select([2])(tokens, positions), expected, atol=5e-5, rtol=1e-4)
        plain = StackedDecoder.of(decoders).decoder(2)(tokens, positions)
    assert (plain - expected).abs().max() > 0.01


def aware(problems, weights, width, steps, **kwargs):
    datas = variants(problems, {**QAT, "max_steps": steps}, width, **kwargs)
    return [{**data, "algorithm": {**data["algorithm"], "weights": weights}} for data in datas]


@pytest.mark.parametrize("steps", [15, pytest.param(50, marks=pytest.mark.slow)])
@BITS
def test_every_step_is_the_step_that_the_solo_stage_makes_from_there(study, tmp_path, weights, steps):
    """Eight members at full rates, each step from the solo stage's own state, and so with its codes."""
    _, _, mixed, parent = study
    datas = aware(mixed, weights, 8, steps)
    solo = run_solo_seen(tmp_path, datas, parent)
    for step, entries in enumerate(run_fused_beside(tmp_path, datas, parent, [stood for _, stood in solo])):
        for number, (mine, (result, _)) in enumerate(zip(entries, solo, strict=True)):
            _, metrics, _ = next(r for r in result.reports if r[0] == step + 1 and "train/lr" in r[1])
            assert_same_step(mine.said, metrics, f"member {number}, step {step}")
            assert_same_updates(mine.led, datas[number], metrics["train/lr"], f"member {number}, step {step}")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 2, 8])
@pytest.mark.parametrize(("weights", "steps"), [("int4", 50), ("int8", 10)])
def test_members_go_the_ways_they_go_alone(study, tmp_path, weights, steps, width):
    """Until a code that is within rounding of its border is another: of 8 bits there are more borders."""
    _, even, _, parent = study
    datas = aware(even, weights, width, steps)
    solo, fused = run_solo(tmp_path, datas, parent), run_fused(tmp_path, datas, parent)
    for number, result in enumerate(solo):
        assert_same_trajectory(fused, str(number), result)


def test_what_is_learned_is_the_weights_and_what_learns_is_their_codes(study, tmp_path):
    """Else the comparison above would be one of plain members."""
    _, even, _, parent = study
    (data,) = aware(even, "int4", 1, 3)
    rounded = run_fused(tmp_path, [data], parent)
    plain = run_fused(tmp_path, [{**data, "algorithm": {**data["algorithm"], "weights": "none"}}], parent)
    assert abs(rounded.values("0", "train/loss")[0] - plain.values("0", "train/loss")[0]) > 1e-3
    learned = rounded.weights["0"]["layers.0.feed_forward.down.weight"]
    assert learned.unique().numel() > 15 * len(learned)  # more than a row of one group has codes for
