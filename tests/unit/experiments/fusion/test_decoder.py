"""A stack computes what its members compute."""

import pytest
import torch

from experiments.fusion.decoder import StackedDecoder
from experiments.fusion.stack import StackLayout
from experiments.models.shared_prompt import GroupLayout, completion_logits
from tests.unit.experiments.decoders import VOCAB, small_decoder

KV_HEADS = pytest.mark.parametrize("kv_heads", [4, 2, 1], ids=["mha", "gqa", "mqa"])
TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
MEMBERS = 3


def _members(**shape):
    return [small_decoder(seed, **shape) for seed in range(MEMBERS)]


def _batch(prompts=4, group=2, padded=False):
    """Flat batches of all members: prompts, completions, padding."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, VOCAB, (MEMBERS * prompts, 6), generator=generator)
    completions = torch.randint(3, VOCAB, (MEMBERS * prompts * group, 4), generator=generator)
    padding = torch.arange(MEMBERS * prompts) % 3 if padded else None
    return tokens, completions, padding


def _alone(decoders, tokens, completions, padding):
    parts = zip(
        decoders,
        tokens.chunk(MEMBERS),
        completions.chunk(MEMBERS),
        [None] * MEMBERS if padding is None else padding.chunk(MEMBERS),
        strict=True,
    )
    return torch.cat([completion_logits(decoder, *batch) for decoder, *batch in parts])


@KV_HEADS
@TIED
@pytest.mark.parametrize("padded", [False, True], ids=["even", "padded"])
def test_logits_and_gradients_are_those_of_the_members(kv_heads, tied, padded):
    decoders = _members(kv_heads=kv_heads, tie_embeddings=tied)
    stack = StackedDecoder.of(decoders)
    batch = _batch(padded=padded)
    together, alone = completion_logits(stack, *batch), _alone(decoders, *batch)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    together.square().sum().backward()
    alone.square().sum().backward()
    for index, decoder in enumerate(decoders):
        mine = stack.layout.unpack(stack.weights.grad[index])
        for name, weight in decoder.named_parameters():
            torch.testing.assert_close(mine[name], weight.grad, atol=1e-3, rtol=1e-4)


@KV_HEADS
@pytest.mark.parametrize("batch", [2, 10], ids=["kernel", "products"])
@pytest.mark.parametrize("padded", [False, True], ids=["even", "padded"])
@pytest.mark.parametrize("first", [5, 8], ids=["some", "last"])
def test_rows_whose_logits_nobody_wants_change_neither_the_others_nor_their_gradients(kv_heads, batch, padded, first):
    tokens = torch.randint(3, VOCAB, (batch * MEMBERS, 9), generator=torch.Generator().manual_seed(0))
    layout = GroupLayout(9, 1, 1, torch.arange(batch * MEMBERS) % 3 if padded else None, tokens.device)
    results = []
    for wanted in (first, 0):
        stack = StackedDecoder.of(_members(kv_heads=kv_heads))
        logits = stack(tokens, *layout.prompt(), logits_from=wanted)[:, first - wanted :]
        logits.square().mean().backward()
        results.append((logits, stack.weights.grad))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@KV_HEADS
def test_decoding_with_the_cache_equals_recomputation(kv_heads):
    stack = StackedDecoder.of(_members(kv_heads=kv_heads))
    tokens = torch.randint(3, VOCAB, (2 * MEMBERS, 9), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(9)
    cache = stack.new_cache()
    pieces = [stack(tokens[:, :5], positions[:5], cache=cache)]
    pieces += [stack(tokens[:, i : i + 1], positions[i : i + 1], cache=cache) for i in range(5, 9)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), stack(tokens, positions), atol=5e-5, rtol=1e-5)


def test_a_prompt_above_the_limit_of_shared_rows_is_repeated_for_each_member():
    decoders = _members()
    tokens, completions, _ = _batch(prompts=1, group=200)
    together = completion_logits(StackedDecoder.of(decoders), tokens, completions)
    torch.testing.assert_close(together, _alone(decoders, tokens, completions, None), atol=1e-5, rtol=1e-5)


@TIED
def test_members_come_back_as_they_went_in(tied):
    decoders = _members(tie_embeddings=tied)
    stack = StackedDecoder.of(decoders)
    for index, decoder in enumerate(decoders):
        state = stack.decoder(index).state_dict()
        assert list(state) == list(decoder.state_dict())
        assert all(torch.equal(state[name], weight) for name, weight in decoder.state_dict().items())


def test_a_member_given_back_shares_no_memory_with_the_stack():
    stack = StackedDecoder.of(_members())
    decoder = stack.decoder(1)
    before = decoder.embedding.weight.clone()
    with torch.no_grad():
        stack.weights.zero_()
    assert torch.equal(decoder.embedding.weight, before)


def test_selected_members_are_in_the_order_asked_for():
    decoders = _members()
    chosen = StackedDecoder.of(decoders).select([2, 0])
    assert torch.equal(chosen.decoder(0).embedding.weight, decoders[2].embedding.weight)
    assert torch.equal(chosen.decoder(1).embedding.weight, decoders[0].embedding.weight)


def test_one_member_says_nothing_to_another():
    decoders = _members()
    batch = _batch()
    before = completion_logits(StackedDecoder.of(decoders), *batch)
    after = completion_logits(StackedDecoder.of([decoders[0], small_decoder(7), decoders[2]]), *batch)
    changed = [not torch.equal(a, b) for a, b in zip(before.chunk(MEMBERS), after.chunk(MEMBERS), strict=True)]
    assert changed == [False, True, False]


def test_bf16_computes_in_bf16_and_keeps_weights_and_gradients_in_fp32():
    decoders = _members()
    stack, batch = StackedDecoder.of(decoders, torch.bfloat16), _batch()
    logits = completion_logits(stack, *batch)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), _alone(decoders, *batch), atol=0.5, rtol=0.1)
    logits.float().square().mean().backward()
    assert (stack.weights.dtype, stack.weights.grad.dtype) == (torch.float32, torch.float32)


def test_a_member_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"feed_forward\.gate_up\.weight is \(128, 32\), the stack's members have"):
        StackedDecoder.of([small_decoder(), small_decoder(d_ff=64)])


def test_a_member_with_other_weights_is_refused():
    with pytest.raises(ValueError, match=r"head\.weight"):
        StackedDecoder.of([small_decoder(), small_decoder(tie_embeddings=False)])


def test_rows_of_another_size_are_refused():
    decoder = small_decoder()
    size = StackLayout.of(decoder.config, VOCAB).row_size
    with pytest.raises(ValueError, match=f"members of this shape have {size} weights"):
        StackedDecoder(decoder.config, VOCAB, torch.zeros(2, size + 1))
