import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.tasks import CharTokenizer

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
