"""The chosen experts by themselves give what all of them give with the gates of the others at zero."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from experiments.fusion import layer
from experiments.fusion.decoder import StackedDecoder
from experiments.models import moe
from experiments.models.moe import MixtureOfExperts
from experiments.models.quantization import fake_quantize, quantize
from experiments.models.routed import Groups, RoutedExperts, chosen_alone_pay
from orchestrator.schema.training import FeedForwardKind, ModelConfig, Weights
from tests.unit.experiments.decoders import VOCAB, small_decoder

CPU = torch.device("cpu")
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def computing(module, *, chosen_alone):
    """Whatever the rule would say."""
    return mock.patch.object(module, "chosen_alone_pay", return_value=chosen_alone)


def mixture(seed=0, **shape):
    experts = MixtureOfExperts(ModelConfig(ffn=FeedForwardKind.moe, **shape))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in experts.parameters():
            weight.normal_(0.0, 0.3, generator=generator)
    experts.bias_steps.random_(-30, 30, generator=generator)
    return experts


def learned(experts, x, *, chosen_alone):
    """What comes out, all gradients, and what is noted for the balance."""
    x = x.clone().requires_grad_()
    with computing(moe, chosen_alone=chosen_alone):
        y = experts(x, torch.arange(x.shape[0] * x.shape[1]).view(x.shape[:2]) % 3 > 0)
    auxiliary, load = experts.take_auxiliary_loss(), experts.take_load()
    total = (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() + (0 if auxiliary is None else auxiliary)
    return y, torch.autograd.grad(total, [x, *experts.parameters()]), load, auxiliary


@settings(deadline=None, max_examples=40)
@given(
    shape=st.fixed_dictionaries(
        {
            "d_model": st.sampled_from([8, 10, 16]),
            "d_expert": st.sampled_from([3, 4, 12]),
            "experts": st.integers(2, 24),
            "shared_experts": st.integers(0, 2),
            "balancing": st.sampled_from(["bias", "auxiliary"]),
        }
    ),
    per_token=st.integers(1, 3),
    rows=st.tuples(st.integers(1, 4), st.integers(1, 9)),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_are_those_of_all_experts_with_the_gates_of_the_others_at_zero(
    shape, per_token, rows, seed
):
    experts = mixture(seed, experts_per_token=min(per_token, shape["experts"]), bias_rate=0.02, **shape)
    x = torch.randn(*rows, shape["d_model"], generator=torch.Generator().manual_seed(seed))
    alone, every = (learned(experts, x, chosen_alone=way) for way in (True, False))
    torch.testing.assert_close(alone[:2], every[:2], **CLOSE)
    torch.testing.assert_close(alone[2:], every[2:], atol=0, rtol=0)


def test_the_same_input_has_the_same_result_bit_for_bit():
    experts, x = mixture(d_model=32, d_expert=16, experts=16), torch.randn(4, 50, 32)
    first, second = (learned(experts, x, chosen_alone=True) for _ in range(2))
    torch.testing.assert_close(first, second, atol=0, rtol=0)


@pytest.mark.parametrize("d_expert", [2, 3])
def test_gradients_are_those_of_finite_differences(d_expert):
    torch.manual_seed(0)
    x, gates = torch.randn(5, 4), torch.rand(5, 2)
    weights = torch.randn(2 * 3 * d_expert, 4), torch.randn(4, 3 * d_expert)
    chosen = torch.tensor([[0, 2], [2, 1], [0, 1], [2, 0], [0, 2]])
    x, gates, gate_up, down = (some.double().requires_grad_() for some in (x, gates, *weights))
    assert torch.autograd.gradcheck(lambda *some: RoutedExperts.apply(some[0], chosen, *some[1:], d_expert),
                                    (x, gates, gate_up, down))  # fmt: skip


@pytest.mark.parametrize("counts", [[3, 0, 5, 2], [0, 0, 0, 0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 7, 0]])
@pytest.mark.parametrize("width", [8, 6])  # of rows that grouped_mm takes, and that it doesn't
def test_groups_multiply_by_their_own_matrix(counts, width):
    torch.manual_seed(0)
    groups, rows = Groups(torch.tensor(counts)), sum(counts)
    x, other, weights = torch.randn(rows, width), torch.randn(rows, 4), torch.randn(len(counts), width, 4)
    of_row = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    torch.testing.assert_close(groups.products(x, weights), (x[:, None] @ weights[of_row])[:, 0], **CLOSE)
    outer = torch.zeros_like(weights).index_add(0, of_row, x[:, :, None] * other[:, None])
    torch.testing.assert_close(groups.outer(x, other), outer, **CLOSE)


def grouped_flops(a, b, *_, **__):
    """Of rows (rows, in) by matrices (groups, in, out): shapes."""
    return 2 * a[0] * a[1] * b[2]


@pytest.mark.parametrize("d_expert", [12, 10])  # by grouped_mm, and one by one
def test_only_what_is_chosen_is_multiplied(d_expert):
    experts, rows = mixture(d_model=16, d_expert=d_expert, experts=30, shared_experts=1, experts_per_token=2), 100
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: grouped_flops})
    with counter, torch.no_grad(), computing(moe, chosen_alone=True):
        experts(torch.randn(1, rows, 16))
    assert counter.get_total_flops() == 2 * rows * 16 * (30 + 3 * (1 + 2) * d_expert)  # router, and three experts


def test_a_stack_computes_what_its_members_do():
    """Each member of the experts that it chooses, with all gradients."""
    shape = {"ffn": "moe", "experts": 6, "d_expert": 12}
    decoders = [small_decoder(seed, **shape) for seed in range(3)]
    stack, tokens = StackedDecoder.of(decoders), torch.randint(1, VOCAB, (6, 7))
    results = []
    for way in (True, False):
        with computing(layer, chosen_alone=way):
            logits = stack(tokens, torch.arange(7))
        loads = [load.clone() for load in stack.routing._loads.values()]
        stack.routing.clear()
        upstream = torch.linspace(-1, 1, logits.numel()).view_as(logits)
        results.append((logits, *torch.autograd.grad(logits, stack.weights, upstream), loads))
    torch.testing.assert_close(*results, atol=5e-5, rtol=1e-4)


def test_a_stack_whose_members_decode_one_token_each_computes_what_they_do():
    decoders = [small_decoder(seed, ffn="moe", experts=6, d_expert=12) for seed in range(3)]
    stack, tokens = StackedDecoder.of(decoders), torch.randint(1, VOCAB, (3, 1))
    results = []
    for way in (True, False):
        with torch.no_grad(), computing(layer, chosen_alone=way):
            results.append(stack(tokens, torch.arange(1)))
    torch.testing.assert_close(*results, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("shared", [0, 1])
def test_a_single_token_that_is_decoded_has_the_weights_of_its_own_experts_gathered(shared):
    experts, x = mixture(d_model=16, d_expert=12, experts=9, shared_experts=shared), torch.randn(1, 1, 16)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), computing(moe, chosen_alone=False):
        every = experts(x)
    with torch.no_grad(), computing(moe, chosen_alone=True), counter:
        alone = experts(x)
    torch.testing.assert_close(alone, every, **CLOSE)
    assert counter.get_total_flops() == 2 * 16 * (9 + 3 * (shared + 2) * 12)


@pytest.mark.parametrize("weights", [Weights.int8, Weights.int4])
@pytest.mark.parametrize("change", [quantize, fake_quantize])
@pytest.mark.parametrize("rows", [1, 18])
def test_quantized_experts_too(weights, change, rows):
    experts, x = mixture(d_model=16, d_expert=12, experts=6), torch.randn(1, rows, 16)
    change(experts, weights)
    results = []
    for way in (True, False):
        with torch.no_grad(), computing(moe, chosen_alone=way):
            results.append(experts(x))
    torch.testing.assert_close(*results, **CLOSE)


def test_the_rule_takes_all_experts_where_little_is_to_be_left_out():
    small, large = ModelConfig(), ModelConfig(d_model=256, d_expert=176, experts=64)
    for config, rows, learning, alone in [
        (small, 1, False, False),
        (small, 136, True, False),
        (small, 1024, False, True),
        (small, 544, True, True),
        (large, 1, False, True),
        (large, 136, True, True),
    ]:
        assert chosen_alone_pay(config, rows, CPU, learning=learning) is alone
        assert not chosen_alone_pay(config, rows, torch.device("cuda"), learning=learning)


def test_the_rule_leaves_nothing_out_of_a_mixture_of_which_all_is_chosen():
    config = ModelConfig(d_model=256, d_expert=176, experts=4, experts_per_token=4)
    assert not chosen_alone_pay(config, 10**6, CPU, learning=False)
