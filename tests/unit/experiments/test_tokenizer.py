import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.tasks import CharTokenizer, tokenizer_of
from experiments.tasks.formats import TAGS
from orchestrator.schema.training import ModelConfig, TaskConfig

CHARACTERS = "".join(map(chr, range(32, 127))) + "\n"
tokenizer = CharTokenizer()
texts = st.text(alphabet=CHARACTERS)


def test_the_vocabulary_is_three_special_tokens_printable_ascii_and_newline():
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer.vocab_size == 3 + len(CHARACTERS) == 99
    assert tokenizer.encode(CHARACTERS) == list(range(3, 99))
    assert set(string.printable) - set(CHARACTERS) == set("\t\r\x0b\x0c")


@given(texts)
def test_decode_undoes_encode(text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(texts, texts)
def test_decode_stops_at_eos_and_skips_pad_and_bos(text, rest):
    ids = [0, 0, 1, *tokenizer.encode(text), 2, *tokenizer.encode(rest), 0]
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(("text", "named"), [("12×3", "'×' (U+00D7, position 2"), ("a\tb", r"'\t' (U+0009")])
def test_encode_names_the_character_it_lacks(text, named):
    with pytest.raises(ValueError) as error:
        tokenizer.encode(text)
    assert named in str(error.value)


@pytest.mark.parametrize("token", [-1, 99])
def test_decode_refuses_ids_outside_the_vocabulary(token):
    with pytest.raises(ValueError, match=f"{token} is outside the vocabulary of 99"):
        tokenizer.decode([5, token])


@given(st.lists(st.integers(-3, 300)))
def test_decode_looks_at_ids_up_to_eos_only(ids):
    before = ids[: ids.index(2)] if 2 in ids else ids
    bad = [token for token in before if not 0 <= token < 99]
    if bad:
        with pytest.raises(ValueError, match=f"token id {bad[0]} is outside"):
            tokenizer.decode(ids)
    else:
        assert tokenizer.decode(ids) == "".join(CHARACTERS[token - 3] for token in before if token > 2)


def test_tags_are_one_token_each_behind_the_characters():
    tagged = CharTokenizer(TAGS)
    assert tagged.vocab_size == 99 + len(TAGS)
    assert tagged.encode("<think>1</think>") == [99, *tokenizer.encode("1"), 100]
    assert tagged.answer_length("<think>1</think><answer>2</answer>") == 4 + 2 + 1
    assert tagged.decode([101, *tagged.encode("12"), 102, 2, 99]) == "<answer>12</answer>"


@given(st.lists(st.one_of(texts, st.sampled_from(TAGS))))
def test_with_tags_decode_undoes_encode_and_rows_are_what_encode_says(parts):
    text, tagged = "".join(parts), CharTokenizer(TAGS)
    ids = tagged.encode(text)
    assert tagged.decode(ids) == text
    assert list(tagged.answer_rows([text]).ids) == [*ids, 2]
    assert list(tagged.prompt_rows([text]).ids) == [1, *ids]
    assert tagged.answer_length(text) == len(ids) + 1


@given(st.lists(st.integers(-3, 300)))
def test_with_tags_decode_looks_at_ids_up_to_eos_only(ids):
    before = ids[: ids.index(2)] if 2 in ids else ids
    bad = [token for token in before if not 0 <= token < 103]
    if bad:
        with pytest.raises(ValueError, match=f"token id {bad[0]} is outside the vocabulary of 103"):
            CharTokenizer(TAGS).decode(ids)
    else:
        of_token = [*CHARACTERS, *TAGS]
        assert CharTokenizer(TAGS).decode(ids) == "".join(of_token[token - 3] for token in before if token > 2)


@pytest.mark.parametrize("text", ["a\x03b", "<think>\x04", "<think>×"])
def test_with_tags_what_the_vocabulary_lacks_is_refused_too(text):
    for method in ("encode", "check"):
        with pytest.raises(ValueError, match="the vocabulary has no"):
            getattr(CharTokenizer(TAGS), method)(text)
    with pytest.raises(ValueError, match="the vocabulary has no"):
        CharTokenizer(TAGS).answer_rows(["<answer>", text])


def test_only_a_task_with_tags_has_a_larger_vocabulary():
    sizes = {
        name: tokenizer_of(ModelConfig(), TaskConfig(answer_format=name)).vocab_size
        for name in ("plain", "reversed", "cot")
    }
    assert sizes == {"plain": 99, "reversed": 99, "cot": 103}
