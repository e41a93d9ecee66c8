import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.batches import DataOrder, encode_answers, encode_prompts, micro_batches, part, seeded_generator
from experiments.losses import sft_loss
from experiments.tasks import CharTokenizer

TOKENIZER = CharTokenizer()
CPU = torch.device("cpu")


def test_every_epoch_visits_every_item_once():
    order = DataOrder(10, seed=0)
    assert sorted(order[0:10]) == sorted(order[10:20]) == list(range(10))


def test_epochs_are_shuffled_differently():
    order = DataOrder(10, seed=0)
    assert order[0:10] != order[10:20]


def test_the_order_is_a_function_of_seed_and_position():
    assert DataOrder(10, seed=3)[7:23] == [*DataOrder(10, seed=3)[7:12], *DataOrder(10, seed=3)[12:23]]
    assert DataOrder(10, seed=3)[0:10] != DataOrder(10, seed=4)[0:10]


def test_streams_of_one_seed_are_independent():
    first, second = seeded_generator(0, "weights"), seeded_generator(0, "sampling")
    assert not torch.equal(torch.rand(4, generator=first), torch.rand(4, generator=second))


def test_parts_cover_everything_once():
    assert [list(range(7))[part(7, index, 3)] for index in range(3)] == [[0, 1], [2, 3], [4, 5, 6]]


def test_prompts_are_padded_on_the_left():
    prompts = encode_prompts(["1+1=", "12+34="], TOKENIZER, CPU)
    assert prompts.tokens[0].tolist() == [0, 0, TOKENIZER.bos_id, *TOKENIZER.encode("1+1=")]
    assert prompts.padding.tolist() == [2, 0]


def test_prompts_of_one_length_need_no_padding():
    assert encode_prompts(["1+1=", "2+2="], TOKENIZER, CPU).padding is None


def test_tokens_of_prompts_are_counted_by_parts_without_padding():
    texts = ["1+1=", "12+34=", "5+6=", "7+8="]
    prompts = encode_prompts(texts, TOKENIZER, CPU)
    lengths = [TOKENIZER.prompt_length(text) for text in texts]
    assert prompts.token_counts(2).tolist() == [sum(lengths[:2]), sum(lengths[2:])]
    assert encode_prompts(["1+1=", "2+2="], TOKENIZER, CPU).token_counts(1).tolist() == [2 * lengths[0]]


def test_an_answers_mask_covers_its_tokens_and_eos():
    answers = encode_answers(["4", "123"], TOKENIZER, CPU)
    assert answers.mask.tolist() == [[True, True, False, False], [True, True, True, True]]
    assert answers.tokens[0].tolist() == [*TOKENIZER.encode("4"), TOKENIZER.eos_id, 0, 0]


def test_masked_positions_never_get_loss():
    answers = encode_answers(["4", "123"], TOKENIZER, CPU)
    logits = torch.randn(2, 4, TOKENIZER.vocab_size, requires_grad=True)
    sft_loss(logits, answers.tokens, answers.mask).backward()
    assert (logits.grad[~answers.mask] == 0).all()
    assert (logits.grad[answers.mask].abs().sum(dim=-1) > 0).all()


def test_an_empty_micro_batch_is_marked():
    assert micro_batches(1, 2) == [(slice(0, 1), False), (slice(0, 1), True)]


@pytest.mark.parametrize("text", ["1\0", "\1+2", "a\2", "é=", "\t", "\x7f"])
@pytest.mark.parametrize("encode", [encode_prompts, encode_answers])
def test_a_character_that_the_vocabulary_lacks_is_refused_by_name(encode, text):
    with pytest.raises(ValueError, match="the vocabulary has no"):
        encode(["1+2=", text], CharTokenizer(), torch.device("cpu"))


@given(texts=st.lists(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=6), min_size=1))
def test_rows_are_the_tokens_of_each_text(texts):
    tokenizer, cpu = CharTokenizer(), torch.device("cpu")
    prompts, answers = encode_prompts(texts, tokenizer, cpu), encode_answers(texts, tokenizer, cpu)
    longest = max(map(len, texts))
    for text, prompt, answer in zip(texts, prompts.tokens.tolist(), answers.tokens.tolist(), strict=True):
        ids, pads = tokenizer.encode(text), [tokenizer.pad_id] * (longest - len(text))
        assert prompt == [*pads, tokenizer.bos_id, *ids]
        assert answer == [*ids, tokenizer.eos_id, *pads]
