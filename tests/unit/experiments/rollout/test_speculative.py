from copy import deepcopy
from functools import cache

import pytest
import torch

from experiments.batches import encode_answers, encode_prompts
from experiments.losses import further_loss, sft_loss
from experiments.models.multi_token import further_logits
from experiments.rollout import generate
from experiments.rollout.speculative import speculate
from experiments.tasks import CharTokenizer
from orchestrator.schema.training import AttentionKind
from tests.unit.experiments.test_multi_token import multi_token_decoder

TOKENIZER = CharTokenizer()
CPU = torch.device("cpu")
TEXTS = ["1+1=", "12+34=", "5+123=", "7+8=", "90+10="]


def prompts_of(texts):
    return encode_prompts(texts, TOKENIZER, CPU)


def assert_greedy(model, texts=TEXTS, steps=14):
    prompts = prompts_of(texts)
    greedy, speculation = generate(model, prompts, TOKENIZER, steps), speculate(model, prompts, TOKENIZER, steps)
    assert torch.equal(speculation.rollout.tokens, greedy.tokens)
    assert torch.equal(speculation.rollout.mask, greedy.mask)
    return speculation


@cache
def taught(depth=1, steps=100):
    """A model that has learned a few answers by heart, and its modules with it."""
    model = multi_token_decoder(depth, scale=0.02)
    answers = encode_answers([text.rstrip("=")[::-1] * 2 for text in TEXTS], TOKENIZER, CPU)
    prompts = prompts_of(TEXTS)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        first, *further = further_logits(model, prompts.tokens, answers.tokens, prompts.padding)
        loss = sft_loss(first, answers.tokens, answers.mask) + further_loss(further, answers.tokens, answers.mask)
        loss.backward()
        adam.step()
        adam.zero_grad()
    return model


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("attention", list(AttentionKind))
def test_bad_guesses_give_the_tokens_of_greedy_decoding(depth, attention):
    speculation = assert_greedy(multi_token_decoder(depth, attention=attention))
    assert speculation.taken < speculation.guessed


@pytest.mark.parametrize("depth", [1, 2])
def test_good_guesses_give_the_tokens_of_greedy_decoding_in_fewer_rounds(depth):
    model = taught(depth)
    speculation = assert_greedy(model)
    assert speculation.taken > speculation.guessed / 2
    longest = int(speculation.rollout.mask.sum(dim=1).max())
    assert speculation.rounds < longest - 1


def test_answers_of_a_batch_are_accepted_at_their_own_pace():
    model = deepcopy(taught(2))
    with torch.no_grad():  # some guesses of it are wrong now
        model.further[0].joining.weight.add_(torch.randn(32, 64, generator=torch.Generator().manual_seed(0)) * 0.2)
    rounds = [speculate(model, prompts_of([text]), TOKENIZER, 14).rounds for text in TEXTS]
    assert len(set(rounds)) > 1
    together = assert_greedy(model)
    assert together.rounds == max(rounds)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_no_token_is_beyond_the_limit(steps):
    assert_greedy(taught(2), steps=steps)


def test_a_guess_after_the_end_does_not_count():
    model = taught(1)
    alone = speculate(model, prompts_of(TEXTS[:1]), TOKENIZER, 14)
    length = int(alone.rollout.mask.sum())
    assert length < 14
    assert alone.taken <= length - 1
    assert alone.taken + alone.rounds >= length - 1
