"""What a completion's length does to its reward, and to its part in the loss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.rewards import length_rewards, overlong_punishment, without_truncated
from experiments.rollout import Rollout
from experiments.tasks import CharTokenizer

TOKENIZER = CharTokenizer()


@given(max_tokens=st.integers(1, 40), data=st.data())
def test_overlong_punishment_is_trls(max_tokens, data):
    from trl.rewards import get_soft_overlong_punishment

    buffer = data.draw(st.integers(1, max_tokens))
    lengths = torch.arange(1, max_tokens + 1)
    theirs = get_soft_overlong_punishment(max_tokens, buffer)(completion_ids=[[0] * int(n) for n in lengths])
    assert overlong_punishment(lengths, max_tokens, buffer).tolist() == pytest.approx(theirs)


def test_each_group_may_have_a_buffer_of_its_own_and_none_punishes_nobody():
    lengths = torch.tensor([[6, 8, 10]] * 3)
    punishment = overlong_punishment(lengths, 10, torch.tensor([[4.0], [0.0], [1.0]]))
    assert punishment.tolist() == [[0.0, -0.5, -1.0], [0.0] * 3, [0.0, 0.0, -1.0]]


def test_the_shortest_of_a_group_gains_and_a_wrong_one_never_does():
    lengths, right = torch.tensor([[2, 4, 6, 2, 6]]), torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]])
    assert length_rewards(lengths, right).tolist() == [[0.5, 0.0, -0.5, 0.0, -0.5]]


def test_a_group_of_one_length_gains_and_loses_nothing():
    assert length_rewards(torch.full((1, 3), 4), torch.tensor([[1.0, 0.0, 1.0]])).tolist() == [[0.0] * 3]


def _rollout():
    ended, cut = [5, 6, TOKENIZER.eos_id], [5, 6, 7]
    short = [5, TOKENIZER.eos_id, TOKENIZER.pad_id]
    tokens = torch.tensor([ended, cut, short, cut])
    return Rollout(tokens, tokens != TOKENIZER.pad_id, torch.zeros(4, 3))


def test_only_completions_that_did_not_end_are_masked_out():
    rollout = _rollout()
    mask = without_truncated(rollout, TOKENIZER).mask
    assert mask.any(dim=1).tolist() == [True, False, True, False]
    assert torch.equal(mask[[0, 2]], rollout.mask[[0, 2]])


def test_those_who_do_not_filter_keep_what_was_cut():
    whose = torch.tensor([True, True, False, False])
    assert without_truncated(_rollout(), TOKENIZER, whose).mask.any(dim=1).tolist() == [True, False, True, True]
