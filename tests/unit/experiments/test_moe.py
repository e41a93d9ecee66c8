"""Experts: what is computed, who is selected, and how they are kept equally busy."""

import pytest
import torch
from torch import nn

from experiments.models.decoder import PAD_ID, SwiGLU, load_decoder, save_decoder
from experiments.models.moe import MixtureOfExperts, Routing, auxiliary_loss, moved, route
from experiments.tasks import CharTokenizer
from orchestrator.schema.decoder_sizes import idle_expert_parameters
from orchestrator.schema.training import FeedForwardKind, ModelConfig
from tests.unit.experiments.decoders import VOCAB, small_decoder

SHAPE = {"d_model": 16, "ffn": FeedForwardKind.moe, "experts": 6, "d_expert": 10}


def mixture(seed=0, **shape):
    experts = MixtureOfExperts(ModelConfig(**{**SHAPE, **shape}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in experts.parameters():
            weight.normal_(0.0, 0.3, generator=generator)
    return experts


def rows_of(*shape, seed=1):
    return torch.randn(*shape, 16, generator=torch.Generator().manual_seed(seed))


def expert(experts, index):
    """One expert as a feed-forward of its own."""
    width = experts._config.d_expert
    alone, mine = SwiGLU(ModelConfig(d_model=16, d_ff=width)), slice(index * width, (index + 1) * width)
    gate, up = experts.gate_up.weight.chunk(2)
    alone.gate_up.weight = nn.Parameter(torch.cat((gate[mine], up[mine])))
    alone.down.weight = nn.Parameter(experts.down.weight[:, mine])
    return alone


def test_all_experts_selected_with_equal_gates_are_the_dense_sum():
    experts = mixture(experts_per_token=6)
    nn.init.zeros_(experts.router.weight)
    dense, x = SwiGLU(ModelConfig(d_model=16, d_ff=70)), rows_of(2, 5)
    gates = torch.cat((torch.ones(10), torch.full((60,), 1 / 6)))  # the shared expert comes first
    dense.load_state_dict({"gate_up.weight": experts.gate_up.weight, "down.weight": experts.down.weight * gates})
    torch.testing.assert_close(experts(x), dense(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shared", [0, 2])
def test_a_token_gets_its_shared_experts_and_the_best_routed_ones_by_their_gates(shared):
    experts, x = mixture(shared_experts=shared, experts_per_token=2), rows_of(7)
    affinities = (x @ experts.router.weight.T).sigmoid()
    for row, mixed in zip(range(7), experts(x[None])[0], strict=True):
        best = affinities[row].topk(2)
        gates = best.values / best.values.sum()
        expected = sum(expert(experts, index)(x[row]) for index in range(shared))
        for gate, index in zip(gates, best.indices.tolist(), strict=True):
            expected = expected + gate * expert(experts, shared + index)(x[row])
        torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=1e-5)


def test_a_bias_changes_who_is_selected_and_no_gate():
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    routing = route(scores, torch.tensor([0.0, -1.0, 0.0, 1.0]), 2)
    assert routing.gates.nonzero()[:, 1].tolist() == [0, 3]
    affinities = scores.sigmoid()
    assert routing.gates[0, 3] == pytest.approx(float(affinities[0, 3] / (affinities[0, 0] + affinities[0, 3])))


def test_biases_move_one_step_against_the_load():
    steps = torch.tensor([3, 0, -2, 5])
    assert moved(steps, torch.tensor([10, 2, 6, 6])).tolist() == [2, 1, -2, 5]


def test_the_auxiliary_loss_is_one_when_all_are_equally_busy_and_larger_when_one_is_busier():
    counted = torch.ones(4, dtype=torch.bool)
    even = route(torch.eye(4) * 4, torch.zeros(4), 1)
    skewed = route(torch.tensor([[4.0, 0.0, 0.0, 0.0]]).repeat(4, 1), torch.zeros(4), 1)
    assert auxiliary_loss(even, counted).item() == pytest.approx(1.0)
    affinities = torch.tensor([4.0, 0.0, 0.0, 0.0]).sigmoid()
    assert auxiliary_loss(skewed, counted).item() == pytest.approx(4 * float(affinities[0] / affinities.sum()))


def test_rows_that_are_not_counted_reach_no_auxiliary_loss():
    routing = route(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(4), 2)
    counted = torch.tensor([True, True, False, True, False, False])
    some = Routing(*(values[counted] for values in routing))
    every = torch.ones(3, dtype=torch.bool)
    torch.testing.assert_close(auxiliary_loss(routing, counted), auxiliary_loss(some, every))


def imbalance(experts, x):
    """The largest part of all selections that fell on one expert, times the number of experts."""
    experts(x)
    load = experts.take_load().float()
    return float(load.max() / load.sum() * len(load))


def skewed_rows():
    """Rows that have most of their direction in common, so that a fresh router sends most of them one way."""
    return rows_of(4, 64, seed=2) * 0.5 + rows_of(1, 1, seed=3)


def test_biases_balance_skewed_rows_without_any_gradient():
    experts, x = mixture(bias_rate=0.02), skewed_rows()
    before = imbalance(experts, x)
    for _ in range(120):
        experts(x)
        experts.balance(experts.take_load())
    assert before > 2.0
    assert imbalance(experts, x) < 1.3


def test_the_auxiliary_loss_balances_skewed_rows_by_its_gradient():
    experts, x = mixture(balancing="auxiliary", auxiliary_weight=1.0), skewed_rows()
    before = imbalance(experts, x)
    optimizer = torch.optim.Adam([experts.router.weight], lr=0.03)
    for _ in range(120):
        experts(x)
        experts.take_auxiliary_loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        experts.balance(experts.take_load())
    assert before > 2.0
    assert imbalance(experts, x) < 1.5
    assert not experts.bias_steps.any()


def test_nothing_is_counted_where_nothing_is_learned():
    experts = mixture()
    with torch.no_grad():
        experts(rows_of(2, 5))
    assert not experts.take_load().any()
    assert experts.take_auxiliary_loss() is None


def test_padding_is_not_counted():
    decoder = small_decoder(ffn="moe", experts=4, d_expert=8)
    decoder(torch.tensor([[PAD_ID, PAD_ID, 5, 6, 7], [PAD_ID, 9, 8, 7, 6]]), torch.arange(5))
    assert [int(experts.take_load().sum()) for experts in decoder.experts] == [2 * 7, 2 * 7]


def test_padding_is_the_tokenizers() -> None:
    assert CharTokenizer().pad_id == PAD_ID


def test_a_cast_of_the_model_leaves_biases_whole():
    experts = mixture()
    experts.bias_steps.fill_(1001)
    assert experts.bfloat16().float().bias_steps.tolist() == [1001] * 6


def test_biases_are_part_of_what_is_saved(tmp_path):
    decoder = small_decoder(ffn="moe", experts=4, d_expert=8, attention="mla", kv_rank=8, rope_dim=4)
    decoder.experts[1].bias_steps.copy_(torch.tensor([3, -1, 0, 7]))
    save_decoder(decoder.state_dict(), decoder.config, VOCAB, tmp_path)
    loaded = load_decoder(tmp_path)
    assert loaded.config == decoder.config
    assert loaded.experts[1].bias_steps.tolist() == [3, -1, 0, 7]
    tokens = torch.randint(3, VOCAB, (2, 5))
    torch.testing.assert_close(loaded(tokens, torch.arange(5)), decoder(tokens, torch.arange(5)), atol=0, rtol=0)


def test_idle_parameters_are_those_of_experts_that_a_token_does_not_select():
    experts = mixture(experts_per_token=2)
    one = sum(weight.numel() for weight in expert(experts, 0).parameters())
    assert idle_expert_parameters(experts._config) == 4 * one
