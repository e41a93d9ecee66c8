"""Verdicts are the task's own, and the verifier is asked once for each answer."""

import pytest
import torch

from experiments import judging
from experiments.judging import Judge
from experiments.tasks import CharTokenizer, Problem, Task
from orchestrator.schema.training import RewardConfig, TaskConfig

TOKENIZER = CharTokenizer()
PROBLEMS = [Problem("1+2=", "3"), Problem("2+2=", "4")]
ANSWERS = ["3", "4", "3", "3"] * 2


class Vocabulary:
    """`CharTokenizer` among so many tokens that an id takes more than a byte."""

    vocab_size = 100_000
    pad_id, eos_id = TOKENIZER.pad_id, TOKENIZER.eos_id

    def decode(self, ids):
        return TOKENIZER.decode([token % 1000 for token in ids])


class Asked:
    """A verifier that notes what it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, answer, problem):
        self.asked.append((problem.prompt, answer))
        return float(answer == problem.answer)


def tokens_of(answers, offset=0):
    width = max(map(len, answers)) + 1
    ids = [[*TOKENIZER.encode(text), TOKENIZER.eos_id] for text in answers]
    return torch.tensor([[*row, *[TOKENIZER.pad_id] * (width - len(row))] for row in ids]) + offset


def judge_of(verifier, tokenizer=TOKENIZER, **config):
    return Judge(Task(TaskConfig(**config), PROBLEMS, [], [], [], verifier), tokenizer)


@pytest.mark.parametrize(("tokenizer", "offset"), [(TOKENIZER, 0), (Vocabulary(), 70_000)])
def test_the_same_answer_to_the_same_problem_is_judged_once(tokenizer, offset):
    verifier = Asked()
    judge = judge_of(verifier, tokenizer)
    tokens = tokens_of(ANSWERS, offset)
    for _ in range(2):
        assert judge.rewards(PROBLEMS, tokens) == [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    assert sorted(verifier.asked) == [("1+2=", "4"), ("2+2=", "3")]  # the references need no verifier


def test_rewards_and_accuracies_are_told_apart():
    judge = judge_of(Asked(), answer_format="cot", reward=RewardConfig(accuracy=1.0, format=0.5))
    tokens = tokens_of(["<think></think><answer>3</answer>", "3", "<answer>3</answer>"])
    problems = [Problem("1+2=", "<think></think><answer>3</answer>"), *[Problem("1+2=", "3")] * 2]
    assert judge.rewards(problems, tokens) == [1.5, 1.0, 1.0]
    assert judge.accuracies(problems, tokens) == [1.0, 1.0, 1.0]


def test_what_is_forgotten_is_judged_again(monkeypatch):
    monkeypatch.setattr(judging, "REMEMBERED_BYTES", 0)
    verifier = Asked()
    judge = judge_of(verifier)
    for _ in range(2):
        assert judge.accuracies(PROBLEMS, tokens_of(["4", "4"])) == [0.0, 1.0]
    assert verifier.asked == [("1+2=", "4")] * 2
