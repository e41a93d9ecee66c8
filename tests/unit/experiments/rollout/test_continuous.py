import pytest
import torch

from experiments.batches import encode_prompts
from experiments.rollout import generate, sampling_noise
from experiments.rollout.continuous import decode
from experiments.rollout.weights import plain_weights
from experiments.tasks import CharTokenizer
from tests.unit.experiments.decoders import small_decoder

TOKENIZER = CharTokenizer()
TEXTS = ["1+1=", "12+34=", "5+123=", "7+8=", "90+10="]
STEPS, GROUP = 20, 4  # more steps than the first columns, so that they grow


def ending_often(**shape):
    decoder = small_decoder(**shape)
    with torch.no_grad():
        decoder.embedding.weight[TOKENIZER.eos_id] *= 4.0  # rows leave at different steps
    return decoder


def both(decoder, texts=TEXTS, noise="sampled", group=GROUP, **options):
    """The same rollout in one batch and by continuous batching."""
    prompts = encode_prompts(texts, TOKENIZER, torch.device("cpu"))
    drawn = sampling_noise(len(texts) * group, STEPS, torch.Generator().manual_seed(0)) if noise else None
    max_rows = options.pop("max_rows", 0)
    shared = {"group_size": group, "noise": drawn, **options}
    weights = plain_weights(decoder)
    assert weights is not None
    plain = generate(decoder, prompts, TOKENIZER, STEPS, **shared)
    return plain, decode(weights, prompts, TOKENIZER, STEPS, max_rows=max_rows, **shared)


def assert_same(plain, continuous):
    assert torch.equal(continuous.tokens, plain.tokens)
    assert torch.equal(continuous.mask, plain.mask)
    torch.testing.assert_close(continuous.log_probs, plain.log_probs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("max_rows", [0, 1, 8, 12])
def test_samples_are_those_of_one_batch_however_many_rows_there_are(max_rows):
    assert_same(*both(ending_often(), max_rows=max_rows))


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_heads_that_share_keys_decode_as_in_one_batch(kv_heads):
    assert_same(*both(ending_often(kv_heads=kv_heads), max_rows=8))


def test_a_head_of_its_own_is_used():
    assert_same(*both(ending_often(tie_embeddings=False), max_rows=8))


def test_greedy_answers_are_those_of_one_batch():
    assert_same(*both(ending_often(), noise=None, group=1, max_rows=2))


def test_temperature_is_that_of_one_batch():
    assert_same(*both(ending_often(), temperature=0.7, max_rows=8))


def test_prompts_of_one_length_need_no_padding():
    assert_same(*both(ending_often(), texts=["1+1=", "2+2="]))


def test_rows_end_at_different_steps_here():
    plain, _ = both(ending_often())
    assert len(plain.mask.sum(dim=1).unique()) > 4
