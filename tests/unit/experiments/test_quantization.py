"""Weights in few bits: what they take, how far off they are, and what learns through them."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from experiments.models.quantization import (
    INT4_GROUP,
    FakeQuantizedLinear,
    QuantizedLinear,
    encode,
    fake_quantize,
    fake_quantized,
    quantize,
)
from experiments.outcomes import parameter_counts, weight_bytes
from orchestrator.schema.training import Weights
from tests.unit.experiments.decoders import small_decoder

BOTH = pytest.mark.parametrize("weights", [Weights.int8, Weights.int4])
TOKENS = torch.arange(20).view(2, 10)
POSITIONS = torch.arange(10)


def _layer(inputs=48, outputs=20, *, bias=False, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias)


def _quantized(layer, weights):
    made = copy.deepcopy(layer)
    quantize(nn.Sequential(made), weights)
    return made


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), st.sampled_from([7, 127]))
@settings(deadline=None)
def test_a_number_comes_back_within_half_a_scale(numbers, highest):
    x = torch.tensor([numbers])
    codes, scale = encode(x, highest)
    assert int(codes.abs().max()) <= highest
    assert bool(((codes * scale - x).abs() <= 0.5001 * scale).all())


@BOTH
@pytest.mark.parametrize("inputs", [48, 64, 65])
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_computes_with_what_its_codes_say(weights, inputs, bias):
    layer = _quantized(_layer(inputs, bias=bias), weights)
    x = torch.randn(3, 5, inputs)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


@BOTH
def test_a_weight_is_off_by_half_a_scale_at_most(weights):
    plain = _layer()
    group = plain.in_features if weights == Weights.int8 else INT4_GROUP
    highest = 127 if weights == Weights.int8 else 7
    wrong = (_quantized(plain, weights).weight - plain.weight).abs()
    for start in range(0, plain.in_features, group):
        part = slice(start, start + group)
        scale = plain.weight[:, part].abs().amax(dim=1, keepdim=True) / highest
        assert bool((wrong[:, part] <= 0.5001 * scale).all())


def test_int4_holds_two_weights_in_a_byte():
    layer = _quantized(_layer(inputs=64, outputs=20), Weights.int4)
    assert layer.codes.nbytes == 64 * 20 // 2
    assert layer.scale.numel() == 64 // INT4_GROUP * 20


@pytest.mark.parametrize(("weights", "bits"), [(Weights.int8, 8), (Weights.int4, 4)])
def test_the_tensors_of_a_model_take_what_its_layers_hold(weights, bits):
    decoder = small_decoder(d_model=64, d_ff=96)
    linear = [layer.weight for layer in decoder.modules() if isinstance(layer, nn.Linear)]
    rest = sum(weight.nbytes for weight in decoder.parameters()) - sum(weight.nbytes for weight in linear)
    scales = sum(w.shape[0] * (1 if bits == 8 else w.shape[1] // INT4_GROUP) * 4 for w in linear)
    quantize(decoder, weights)
    assert weight_bytes(decoder) == rest + sum(weight.numel() for weight in linear) * bits // 8 + scales


@BOTH
def test_a_quantized_model_has_as_many_parameters(weights):
    decoder = small_decoder()
    before = parameter_counts(decoder)
    quantize(decoder, weights)
    assert parameter_counts(decoder) == before


def test_logits_move_by_a_small_part_of_their_spread_in_8_bits():
    plain = small_decoder(seed=1)
    quantized = copy.deepcopy(plain)
    quantize(quantized, Weights.int8)
    with torch.no_grad():
        expected = plain(TOKENS, POSITIONS)
        wrong = (quantized(TOKENS, POSITIONS) - expected).pow(2).mean().sqrt() / expected.std()
    assert 0 < wrong <= 0.05


@BOTH
def test_hooks_stay_on_a_layer(weights):
    layer = _layer()
    layer.register_forward_hook(lambda module, inputs, output: output + 1.0)
    quantized = _quantized(layer, weights)
    x = torch.randn(2, layer.in_features)
    torch.testing.assert_close(quantized(x), nn.functional.linear(x, quantized.weight) + 1.0)


def test_none_changes_nothing():
    layer = _layer()
    quantize(nn.Sequential(layer), Weights.none)
    fake_quantize(nn.Sequential(layer), Weights.none)
    assert type(layer) is nn.Linear


@BOTH
@pytest.mark.parametrize("shape", [{}, {"attention": "mla", "ffn": "moe"}], ids=["plain", "mla-moe"])
def test_a_model_that_learns_as_quantized_computes_what_it_will(weights, shape):
    learning = small_decoder(**shape)
    count = sum(type(module) is nn.Linear for module in learning.modules())
    routers = 2 if shape else 0
    fake_quantize(learning, weights)
    assert sum(type(module) is FakeQuantizedLinear for module in learning.modules()) == count - routers
    served = copy.deepcopy(learning)
    quantize(served, weights)
    assert sum(type(module) is QuantizedLinear for module in served.modules()) == count - routers
    torch.testing.assert_close(learning(TOKENS, POSITIONS), served(TOKENS, POSITIONS), rtol=1e-4, atol=1e-4)


@BOTH
def test_the_gradient_goes_straight_through(weights):
    weight = _layer().weight
    x, target = torch.randn(7, weight.shape[1]), torch.randn(7, weight.shape[0])
    seen = fake_quantized(weight, weights)
    (x @ seen.T - target).pow(2).sum().backward()
    plain = seen.detach().requires_grad_(True)
    (x @ plain.T - target).pow(2).sum().backward()
    torch.testing.assert_close(weight.grad, plain.grad)


def test_names_of_parameters_stay_while_a_model_learns_as_quantized():
    decoder = small_decoder()
    names = list(decoder.state_dict())
    fake_quantize(decoder, Weights.int8)
    assert list(decoder.state_dict()) == names


@pytest.mark.filterwarnings("ignore")
def test_int8_is_as_near_as_torchaos():
    torchao = pytest.importorskip("torchao.quantization")
    plain, theirs = _layer(64, 176), nn.Sequential(_layer(64, 176))
    torchao.quantize_(theirs, torchao.Int8WeightOnlyConfig())
    x = torch.randn(4, 10, 64)
    mine, expected = _quantized(plain, Weights.int8)(x), theirs(x)
    wrong = (expected - plain(x)).abs().max()
    assert (mine - plain(x)).abs().max() <= 1.5 * wrong
    torch.testing.assert_close(mine, expected, rtol=0, atol=float(2 * wrong))
