"""Latent attention: absorbed = expanded, and a cache of latents only."""

import pytest
import torch

from experiments.batches import encode_prompts
from experiments.models.kv_cache import SCALE_BYTES, QuantizedKVCache
from experiments.models.shared_prompt import completion_logits, group_layout
from experiments.rollout import generate
from experiments.tasks import CharTokenizer
from orchestrator.schema.decoder_sizes import cached_width, kv_bytes_per_token
from tests.unit.experiments.decoders import VOCAB, small_decoder

QUERY_RANK = pytest.mark.parametrize("query_rank", [0, 6])
CLOSE = {"atol": 5e-5, "rtol": 1e-5}


def latent_decoder(seed=0, **shape):
    return small_decoder(seed, **{"attention": "mla", "kv_rank": 12, "rope_dim": 4, **shape})


def tokens_of(batch, rows, seed=0):
    return torch.randint(3, VOCAB, (batch, rows), generator=torch.Generator().manual_seed(seed))


@QUERY_RANK
def test_absorbed_decoding_on_a_cache_equals_all_rows_at_once(query_rank):
    decoder, tokens, positions = latent_decoder(query_rank=query_rank), tokens_of(3, 9), torch.arange(9)
    whole = decoder(tokens, positions)
    cache = decoder.new_cache()
    pieces = [decoder(tokens[:, :4], positions[:4], cache=cache)]
    pieces += [decoder(tokens[:, i : i + 1], positions[i : i + 1], cache=cache) for i in range(4, 7)]
    pieces.append(decoder(tokens[:, 7:], positions[7:], cache=cache))  # two at once
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, **CLOSE)


@QUERY_RANK
def test_gradients_through_a_cache_are_those_of_all_rows_at_once(query_rank):
    decoder, tokens, positions = latent_decoder(query_rank=query_rank), tokens_of(2, 6), torch.arange(6)
    weights = list(decoder.parameters())
    whole = torch.autograd.grad(decoder(tokens, positions)[:, 4:].square().sum(), weights)
    cache = decoder.new_cache()
    decoder(tokens[:, :4], positions[:4], cache=cache)
    absorbed = torch.autograd.grad(decoder(tokens[:, 4:], positions[4:], cache=cache).square().sum(), weights)
    for one, other in zip(whole, absorbed, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_padded_prompts_whose_group_shares_them_are_decoded_as_they_are_learned():
    """The steps of three completions a prompt, absorbed with a mask, against one pass over all rows."""
    decoder, group, steps = latent_decoder(), 3, 4
    prompts, completions, padding = tokens_of(2, 5), tokens_of(6, steps + 1, seed=1), torch.tensor([0, 2])
    prompts[1, :2] = 0
    expected = completion_logits(decoder, prompts, completions, padding)
    tokens, layout = group_layout(prompts, group, steps, padding)
    cache = decoder.new_cache()
    positions, mask = layout.prompt()
    pieces = [decoder(tokens, positions, mask, cache, layout.prompt_rows - 1).expand(-1, group, -1)]
    for step in range(steps):
        positions, mask = layout.step(step)
        pieces.append(decoder(completions[:, step].view(2, group), positions, mask, cache))
    decoded = torch.stack(pieces, dim=2).flatten(0, 1)
    torch.testing.assert_close(decoded, expected, **CLOSE)


def test_a_group_that_ends_early_leaves_the_cache():
    decoder, tokens, positions = latent_decoder(), tokens_of(4, 6), torch.arange(6)
    cache, kept = decoder.new_cache(), torch.tensor([2, 0])
    decoder(tokens[:, :5], positions[:5], cache=cache)
    cache.select(kept)
    left = decoder(tokens[kept, 5:], positions[5:], cache=cache)
    torch.testing.assert_close(left, decoder(tokens, positions)[kept, 5:], **CLOSE)


def test_a_prompt_is_answered_alike_alone_and_padded_beside_a_longer_one():
    decoder, tokenizer = latent_decoder(), CharTokenizer()
    alone = generate(decoder, encode_prompts(["1+2="], tokenizer, decoder.device), tokenizer, 6)
    beside = generate(decoder, encode_prompts(["1+2=", "12345+2="], tokenizer, decoder.device), tokenizer, 6)
    assert alone.tokens[0].tolist() == beside.tokens[0].tolist()


@QUERY_RANK
def test_the_cache_holds_the_latent_and_one_rotated_key_only(query_rank):
    decoder = latent_decoder(query_rank=query_rank)
    cache = decoder.new_cache()
    decoder(tokens_of(2, 6), torch.arange(6), cache=cache)
    decoder(tokens_of(2, 1), torch.tensor([6]), cache=cache)
    assert cache.bytes == 2 * 7 * (12 + 4) * 2 * 4  # batch, rows, numbers, layers, fp32


def test_the_reduction_of_real_caches_is_that_of_the_formula_to_the_byte():
    """DeepSeek-V2's latents in 6 bits against 16-bit keys and values of fewer heads, on models of a few thousand
    weights. The scales that come with codes are counted in both."""
    latent = latent_decoder(kv_rank=32, rope_dim=8, layers=2)
    grouped = small_decoder(kv_heads=2, layers=3).bfloat16()
    small, large = QuantizedKVCache(2, bits=6), grouped.new_cache()
    tokens = tokens_of(3, 7)
    with torch.no_grad():
        for decoder, cache in ((latent, small), (grouped, large)):
            decoder(tokens[:, :6], torch.arange(6), cache=cache)
            decoder(tokens[:, 6:], torch.tensor([6]), cache=cache)
    one = kv_bytes_per_token(cached_width(latent.config), 2, bits=6, scale_bytes=2 * SCALE_BYTES)
    other = kv_bytes_per_token(cached_width(grouped.config), 3, bits=16)
    assert (small.bytes, large.bytes) == (tokens.numel() * one, tokens.numel() * other)
    assert 1 - small.bytes / large.bytes == pytest.approx(1 - one / other)
