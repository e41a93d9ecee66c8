import pytest
import torch

from experiments.models.decoder import load_decoder, save_decoder
from experiments.models.shared_prompt import GroupLayout, completion_logits
from tests.unit.experiments.decoders import VOCAB, small_decoder

KV_HEADS = pytest.mark.parametrize("kv_heads", [4, 2, 1], ids=["mha", "gqa", "mqa"])


@KV_HEADS
def test_decoding_with_the_cache_equals_recomputation(kv_heads):
    decoder = small_decoder(kv_heads=kv_heads)
    tokens = torch.randint(3, VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(9)

    whole = decoder(tokens, positions)
    cache = decoder.new_cache()
    pieces = [decoder(tokens[:, :5], positions[:5], cache=cache)]
    pieces += [decoder(tokens[:, i : i + 1], positions[i : i + 1], cache=cache) for i in range(5, 9)]

    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=5e-5, rtol=1e-5)


@KV_HEADS
def test_the_cache_holds_keys_and_values_of_its_heads_only(kv_heads):
    decoder = small_decoder(kv_heads=kv_heads)
    cache = decoder.new_cache()
    decoder(torch.randint(3, VOCAB, (2, 6)), torch.arange(6), cache=cache)
    assert cache.bytes == 2 * 2 * (2 * 6 * kv_heads * 8) * 4  # layers, k and v, batch x rows x heads x dim, fp32


def test_grouped_queries_equal_full_heads_with_repeated_keys_and_values():
    grouped, full = small_decoder(kv_heads=2), small_decoder(kv_heads=4)
    state = grouped.state_dict()
    for name in [name for name in state if name.endswith("qkv.weight")]:
        queries, keys, values = state[name].split((32, 16, 16))
        repeated = [part.view(2, 8, 32).repeat_interleave(2, dim=0).reshape(32, 32) for part in (keys, values)]
        state[name] = torch.cat((queries, *repeated))
    full.load_state_dict(state)
    tokens = torch.randint(3, VOCAB, (2, 7))
    torch.testing.assert_close(grouped(tokens, torch.arange(7)), full(tokens, torch.arange(7)), atol=1e-5, rtol=1e-5)


def test_no_row_sees_later_tokens():
    decoder = small_decoder()
    tokens = torch.randint(3, VOCAB, (1, 8))
    changed = tokens.clone()
    changed[0, 5:] = 3
    positions = torch.arange(8)
    torch.testing.assert_close(decoder(tokens, positions)[:, :5], decoder(changed, positions)[:, :5])


@KV_HEADS
@pytest.mark.parametrize("batch", [2, 20], ids=["kernel", "products"])
@pytest.mark.parametrize("padded", [False, True], ids=["even", "padded"])
@pytest.mark.parametrize("first", [5, 8], ids=["some", "last"])
def test_rows_whose_logits_nobody_wants_change_neither_the_others_nor_their_gradients(kv_heads, batch, padded, first):
    tokens = torch.randint(3, VOCAB, (batch, 9), generator=torch.Generator().manual_seed(0))
    layout = GroupLayout(9, 1, 1, torch.arange(batch) % 3 if padded else None, tokens.device)
    positions, mask = layout.prompt()
    results = []
    for wanted in (first, 0):
        decoder = small_decoder(kv_heads=kv_heads)
        logits = decoder(tokens, positions, mask, logits_from=wanted)[:, first - wanted :]
        logits.square().mean().backward()
        with torch.no_grad():
            cache = decoder.new_cache()
            cached = decoder(tokens, positions, mask, cache, logits_from=wanted)[:, first - wanted :]
        assert cache.rows == 9
        results.append((logits, cached, *(weight.grad for weight in decoder.parameters())))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_left_padding_changes_nothing():
    decoder = small_decoder()
    prompts, completions = torch.randint(3, VOCAB, (2, 5)), torch.randint(3, VOCAB, (2, 4))
    padded = torch.cat((torch.zeros(2, 3, dtype=torch.long), prompts), dim=1)
    plain = completion_logits(decoder, prompts, completions)
    torch.testing.assert_close(
        completion_logits(decoder, padded, completions, torch.tensor([3, 3])), plain, atol=1e-5, rtol=1e-5
    )


def test_gradients_through_left_padding_are_those_without():
    prompts, completions = torch.randint(3, VOCAB, (2, 5)), torch.randint(3, VOCAB, (2, 4))
    padded = torch.cat((torch.zeros(2, 3, dtype=torch.long), prompts), dim=1)
    plain, with_padding = small_decoder(), small_decoder()
    completion_logits(plain, prompts, completions).square().sum().backward()
    completion_logits(with_padding, padded, completions, torch.tensor([3, 3])).square().sum().backward()
    for a, b in zip(plain.parameters(), with_padding.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_is_the_same_model(tmp_path, tied):
    decoder = small_decoder(kv_heads=2, tie_embeddings=tied)
    save_decoder(decoder.state_dict(), decoder.config, decoder.vocab_size, tmp_path)
    loaded = load_decoder(tmp_path)
    tokens = torch.randint(3, VOCAB, (2, 7))
    assert loaded.config == decoder.config
    assert torch.equal(loaded(tokens, torch.arange(7)), decoder(tokens, torch.arange(7)))


def test_a_cast_to_bf16_leaves_the_rotation_in_fp32():
    decoder, positions = small_decoder().bfloat16(), torch.arange(300)
    decoder(torch.randint(3, VOCAB, (1, 300)), positions)
    assert decoder._rotation(positions, 300).dtype is torch.complex64
    assert torch.equal(decoder._rotation(positions, 300), small_decoder()._rotation(positions, 300))


def test_a_fresh_decoder_depends_on_its_generator_only():
    first, again, other = (small_decoder(seed) for seed in (1, 1, 2))
    assert torch.equal(first.embedding.weight, again.embedding.weight)
    assert not torch.equal(first.embedding.weight, other.embedding.weight)
