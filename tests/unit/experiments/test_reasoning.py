"""Every step of a reference's reasoning is true, and the last one says the answer."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reasoning_gym import create_dataset

from experiments.tasks.reasoning import TRACERS, chain_sum, count_bits, gcd, reasoning


def steps(text):
    return [step.split("=") for step in text.split(",")]


def chain(expression):
    return {"metadata": {"expression": expression}}


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("59 + 74", "9+4=13,5+7+1=13"),
        ("5 + 123", "5+3=8,0+2=2,0+1=1"),
        ("15 - 43 - 75", "15-43=-28,-28-75=-103"),
        ("1 + 2 + 3", "1+2=3,3+3=6"),
        ("-4 + 6", "-4+6=2"),
    ],
)
def test_sums_go_by_columns_and_chains_by_terms(expression, text):
    assert chain_sum(chain(expression)) == text


@given(a=st.integers(0, 99999), b=st.integers(0, 99999))
def test_columns_carry_what_the_sum_is_made_of(a, b):
    columns = steps(chain_sum(chain(f"{a} + {b}")))
    assert all(eval(left) == int(right) for left, right in columns)
    units = [right[-1] for _, right in columns[:-1]]
    assert int(columns[-1][1] + "".join(reversed(units))) == a + b


@given(terms=st.lists(st.tuples(st.sampled_from("+-"), st.integers(1, 999)), min_size=2, max_size=6))
def test_each_term_of_a_chain_is_added_to_the_total_so_far(terms):
    expression = " ".join(f"{sign} {number}" for sign, number in [("+", 7), *terms])[2:]
    lines = steps(chain_sum(chain(expression)))
    assert all(eval(left) == int(right) for left, right in lines)
    assert all(line[0].startswith(before[1]) for before, line in pairwise(lines))
    assert int(lines[-1][1]) == eval(expression)


@given(number=st.integers(1, 2**20))
def test_bits_are_counted_from_the_first_to_the_last(number):
    counts = list(map(int, count_bits({"metadata": {"binary": f"{number:b}"}}).split(",")))
    assert len(counts) == number.bit_length()
    assert counts[-1] == number.bit_count()


def test_euclid_ends_where_nothing_is_left():
    assert gcd({"metadata": {"numbers": [48, 36]}}) == "48%36=12,36%12=0"
    assert gcd({"metadata": {"numbers": [36, 48, 18]}}) == "48%36=12,36%12=0,18%12=6,12%6=0"


def conclusion(dataset, entry, text):
    """The answer that a reasoning ends in."""
    if dataset == "gcd":
        return text.rpartition("%")[2].partition("=")[0]
    if dataset == "chain_sum" and re.fullmatch(r"\d+ \+ \d+", entry["metadata"]["expression"]):
        *units, last = (right for _, right in steps(text))
        return str(int(last + "".join(right[-1] for right in reversed(units))))
    return re.split("[,=]", text)[-1]


@pytest.mark.parametrize("dataset", TRACERS)
def test_the_reasoning_ends_in_the_answer_of_the_data_sets_own_entries(dataset):
    data = create_dataset(dataset, seed=0, size=200)
    for index in range(200):
        entry = data[index]
        assert conclusion(dataset, entry, reasoning(dataset, entry)) == entry["answer"]


def test_a_data_set_without_a_tracer_has_no_thought():
    assert reasoning("spell_backward", {}) == ""
