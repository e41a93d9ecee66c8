import pytest
import torch

from experiments.batches import Prompts, encode_prompts
from experiments.losses import token_log_probs
from experiments.models.shared_prompt import completion_logits
from experiments.rollout import generate, sampling_noise
from experiments.tasks import CharTokenizer
from tests.unit.experiments.decoders import VOCAB, small_decoder

TOKENIZER = CharTokenizer()
CPU = torch.device("cpu")


def _prompts(texts=("1+1=", "12+34=", "5+123=")) -> Prompts:
    return encode_prompts(texts, TOKENIZER, CPU)


def _sample(decoder, prompts, group_size=4, steps=6, seed=0, temperature=1.0, rows=slice(None)):
    noise = sampling_noise(3 * group_size, steps, torch.Generator().manual_seed(seed))[rows]
    return generate(decoder, prompts, TOKENIZER, steps, group_size=group_size, temperature=temperature, noise=noise)


def test_greedy_decoding_equals_recomputing_every_prefix():
    decoder, prompts = small_decoder(), _prompts(["12+34=", "56+78="])
    expected = prompts.tokens
    for _ in range(6):
        logits = decoder(expected, torch.arange(expected.shape[1]))
        expected = torch.cat((expected, logits[:, -1:].argmax(dim=-1)), dim=1)
    rollout = generate(decoder, prompts, TOKENIZER, 6)
    assert torch.equal(rollout.tokens[rollout.mask], expected[:, -6:][rollout.mask])


def test_greedy_decoding_is_deterministic():
    decoder, prompts = small_decoder(), _prompts()
    assert torch.equal(generate(decoder, prompts, TOKENIZER, 6).tokens, generate(decoder, prompts, TOKENIZER, 6).tokens)


def test_padded_prompts_decode_as_they_do_alone():
    decoder, texts = small_decoder(), ["1+1=", "12+34=", "5+123="]
    together = generate(decoder, _prompts(texts), TOKENIZER, 6).tokens
    alone = [generate(decoder, _prompts([text]), TOKENIZER, 6).tokens for text in texts]
    assert torch.equal(together, torch.cat(alone))


def test_log_probs_are_those_of_the_sampled_tokens_at_the_sampling_temperature():
    decoder, prompts = small_decoder(), _prompts()
    rollout = _sample(decoder, prompts, temperature=0.7)
    logits = completion_logits(decoder, prompts.tokens, rollout.tokens, prompts.padding)
    expected = token_log_probs(logits, rollout.tokens, temperature=0.7)
    torch.testing.assert_close(rollout.log_probs[rollout.mask], expected[rollout.mask], atol=1e-5, rtol=1e-4)


def test_a_slice_of_the_global_noise_samples_a_slice_of_the_global_batch():
    decoder, prompts = small_decoder(), _prompts()
    whole = _sample(decoder, prompts)
    second = _sample(decoder, prompts.select(torch.tensor([1])), rows=slice(4, 8))
    assert torch.equal(whole.tokens[4:8], second.tokens)


def test_sampling_depends_on_the_seed():
    decoder, prompts = small_decoder(), _prompts()
    first, again, other = (_sample(decoder, prompts, seed=seed).tokens for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_tokens_after_the_end_are_masked_padding():
    decoder = small_decoder()
    rollout = _sample(decoder, _prompts(), group_size=32, steps=12)
    ended = (rollout.tokens == TOKENIZER.eos_id).cumsum(dim=1) - (rollout.tokens == TOKENIZER.eos_id).long() > 0
    assert ended.any()
    assert torch.equal(rollout.mask, ~ended)
    assert (rollout.tokens[ended] == TOKENIZER.pad_id).all()
    assert (rollout.log_probs[ended] == 0).all()


def test_groups_that_ended_leave_without_disturbing_the_others():
    decoder, prompts = small_decoder(), _prompts()
    with torch.no_grad():
        decoder.embedding.weight[TOKENIZER.eos_id] *= 2.0  # ends often, so groups leave at different steps
    together = _sample(decoder, prompts, group_size=2, steps=12)
    for index in range(3):
        rows = slice(2 * index, 2 * index + 2)
        noise = sampling_noise(6, 12, torch.Generator().manual_seed(0))[rows]
        alone = prompts.select(torch.tensor([index]))
        single = generate(decoder, alone, TOKENIZER, 12, group_size=2, noise=noise)
        assert torch.equal(single.tokens, together.tokens[rows])


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_samples_follow_the_models_distribution(temperature):
    decoder, prompts = small_decoder(), _prompts(["1+1="])
    noise = sampling_noise(500, 1, torch.Generator().manual_seed(0))
    rollout = generate(decoder, prompts, TOKENIZER, 1, group_size=500, temperature=temperature, noise=noise)
    logits = decoder(prompts.tokens, torch.arange(prompts.tokens.shape[1]), logits_from=prompts.tokens.shape[1] - 1)
    expected = (logits[0, 0] / temperature).softmax(dim=-1)
    observed = torch.bincount(rollout.tokens[:, 0], minlength=VOCAB) / 500
    assert (observed - expected).abs().max() < 0.07
