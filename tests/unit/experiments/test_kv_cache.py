"""A cache in few bits: what it holds, in how many bytes, and how far off attention is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.batches import encode_prompts
from experiments.models.attention import KVCache
from experiments.models.hf import FullModel, HfCache, load_base
from experiments.models.kv_cache import (
    SCALE_BYTES,
    QuantizedHfCache,
    QuantizedKVCache,
    WithQuantizedCache,
    pack,
    packed_bytes,
    unpack,
)
from experiments.rollout import generate
from experiments.tasks import CharTokenizer
from tests.hf_models import write_model
from tests.unit.experiments.decoders import small_decoder

BITS = pytest.mark.parametrize("bits", [6, 8])
TOKENIZER = CharTokenizer()
TOKENS = torch.arange(24).view(2, 12)


@given(st.lists(st.floats(-6e4, 6e4, width=32), min_size=1, max_size=21), st.sampled_from([6, 8]))
@settings(deadline=None)
def test_a_number_comes_back_within_half_a_scale(numbers, bits):
    x = torch.tensor([numbers])
    codes, scale = pack(x, bits)
    assert bool(((unpack(codes, scale, bits, len(numbers)) - x).abs() <= 0.5001 * scale.float()).all())


@given(st.lists(st.integers(-31, 31), min_size=1, max_size=21))
@settings(deadline=None)
def test_six_bits_hold_every_code_in_every_place(codes):
    """Whole numbers with the largest among them have a scale near 1, and come back as themselves."""
    x = torch.tensor([[31.0, *codes]])
    packed, scale = pack(x, 6)
    assert (unpack(packed, scale, 6, len(codes) + 1) / scale.float()).round().tolist() == x.tolist()


@pytest.mark.parametrize(("width", "bits", "size"), [(16, 8, 16), (16, 6, 12), (17, 6, 15), (4, 6, 3)])
def test_four_numbers_of_six_bits_are_three_bytes(width, bits, size):
    codes, scale = pack(torch.randn(2, 3, 5, width), bits)
    assert (codes.shape, codes.dtype) == ((2, 3, 5, size), torch.uint8)
    assert codes.nbytes + scale.nbytes == 2 * 3 * 5 * packed_bytes(width, bits)
    assert packed_bytes(width, bits) == size + SCALE_BYTES


def _filled(cache, kv_heads=2, batch=3, head_dim=8):
    generator = torch.Generator().manual_seed(0)
    for rows in (4, 1, 1):
        for layer in range(2):
            keys, values = torch.randn(2, batch, kv_heads, rows, head_dim, generator=generator)
            held = cache.extend(layer, keys, values)
    return held


@BITS
def test_it_gives_back_all_rows_in_order_within_its_precision(bits):
    for mine, theirs in zip(_filled(QuantizedKVCache(2, bits)), _filled(KVCache(2)), strict=True):
        assert mine.shape == theirs.shape
        half_a_scale = 0.501 * theirs.abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert bool(((mine - theirs).abs() <= half_a_scale + 1e-3 * half_a_scale).all())


@BITS
def test_its_bytes_are_those_of_codes_and_scales(bits):
    cache = QuantizedKVCache(2, bits)
    _filled(cache)
    assert cache.rows == 6
    assert cache.bytes == 2 * 2 * 3 * 2 * 6 * packed_bytes(8, bits)


@BITS
def test_batch_entries_can_be_dropped(bits):
    cache, whole = QuantizedKVCache(2, bits), QuantizedKVCache(2, bits)
    _filled(cache)
    cache.select(torch.tensor([2, 0]))
    keys = torch.zeros(2, 2, 1, 8)
    held, _ = cache.extend(1, keys, keys)
    before, _ = _filled(whole)
    assert torch.equal(held[:, :, :-1], before[[2, 0]])


@pytest.mark.parametrize(("bits", "share"), [(8, 0.02), (6, 0.1)])
def test_logits_move_by_a_small_part_of_their_spread(bits, share):
    decoder = small_decoder(seed=1)
    positions = torch.arange(12)

    def logits(cache):
        with torch.no_grad():
            decoder(TOKENS[:, :8], positions[:8], cache=cache)
            return torch.cat(
                [decoder(TOKENS[:, n : n + 1], positions[n : n + 1], cache=cache) for n in range(8, 12)], 1
            )

    expected = logits(KVCache(2))
    wrong = (logits(QuantizedKVCache(2, bits)) - expected).pow(2).mean().sqrt() / expected.std()
    assert 0 < wrong <= share


@BITS
def test_a_model_decodes_with_the_cache_that_it_is_given(bits):
    decoder = small_decoder(seed=1)
    made = []

    def new_cache():
        made.append(QuantizedKVCache(2, bits))
        return made[-1]

    prompts = encode_prompts(["1+1=", "22+33="], TOKENIZER, decoder.device)
    generate(WithQuantizedCache(decoder, new_cache), prompts, TOKENIZER, 5, ask_for_ends=False)
    assert made[0].bytes == 2 * 2 * 2 * 4 * made[0].rows * packed_bytes(8, bits)


@BITS
def test_a_hugging_face_model_has_the_same_cache(bits, tmp_path):
    write_model(tmp_path)
    model = FullModel(load_base(tmp_path))
    tokens, positions = torch.arange(3, 15).view(2, 6), torch.arange(6)

    def logits(cache):
        with torch.no_grad():
            model(tokens[:, :4], positions[:4], cache=cache)
            cache.select(torch.tensor([1]))
            return torch.cat([model(tokens[1:, n : n + 1], positions[n : n + 1], cache=cache) for n in (4, 5)], 1)

    cache = QuantizedHfCache(bits)
    wrong = logits(cache) - logits(HfCache())
    assert 0 < wrong.abs().max() < 0.02
    config = model.model.config
    width = config.hidden_size // config.num_attention_heads
    rows = config.num_hidden_layers * 2 * config.num_key_value_heads * 6
    assert (cache.rows, cache.bytes) == (6, rows * packed_bytes(width, bits))
