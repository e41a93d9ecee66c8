"""Answer formats: what is written, what the verifier sees, and what keeps to the format."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.tasks.formats import ANSWER_FORMATS

COT = ANSWER_FORMATS["cot"]


@pytest.mark.parametrize("name", ANSWER_FORMATS)
@given(answer=st.text("0123456789ab+-/ ", max_size=9), reasoning=st.text("0123456789=,\n", max_size=30))
def test_what_is_written_reads_as_the_answer_and_keeps_to_the_format(name, answer, reasoning):
    written = ANSWER_FORMATS[name].write(answer, reasoning)
    assert ANSWER_FORMATS[name].read(written) == answer
    assert ANSWER_FORMATS[name].kept(written)


@pytest.mark.parametrize(
    ("completion", "answer", "kept"),
    [
        ("<think>1+2=3</think><answer>3</answer>", "3", True),
        ("<think></think><answer></answer>", "", True),
        ("<answer>3</answer>", "3", False),
        ("<think>2</think>3", None, False),
        ("3", None, False),
        ("<think>1</think><answer>3", None, False),
        ("<think>1</think> <answer>3</answer>", "3", False),
        ("<think>1</think><answer>3</answer>4", "3", False),
        ("<think>1</think><answer>3</answer><answer>4</answer>", "4", False),
        ("<think>1<think>2</think><answer>3</answer>", "3", False),
        ("<think><answer>9</answer></think><answer>3</answer>", "3", False),
        ("<think>1</think><answer>2<answer>3</answer>", "3", False),
    ],
)
def test_only_what_stands_in_the_last_answer_is_read(completion, answer, kept):
    assert (COT.read(completion), COT.kept(completion)) == (answer, kept)
