"""Samples of a real policy on a real task, and what is made of them."""

from dataclasses import replace

import pytest
import torch

from experiments.rollout.engine import Builtin
from experiments.samples import Sample, draw_samples, preference_pairs, read_samples, verified, write_samples
from experiments.tasks import CharTokenizer, load_task
from orchestrator.schema.training import SamplingConfig, SplitConfig, TaskConfig
from tests.unit.experiments.decoders import small_decoder
from tests.unit.experiments.stage_runs import write_problems

TOKENIZER, CPU = CharTokenizer(), torch.device("cpu")
SAMPLING = SamplingConfig(per_prompt=6, keep=2, batch_size=4)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    config = TaskConfig(
        source="jsonl", path=str(write_problems(folder)), max_answer_tokens=3, split=SplitConfig(10, 10, 10)
    )
    # An untrained policy is right where the last character of its answer is a digit: about one time in ten.
    return replace(load_task(config, folder), verifier=lambda answer, _: float(answer[-1:].isdigit()))


def draw(task, numbers, sampling=SAMPLING, seed=0):
    problems = {number: task.rl[number] for number in numbers}
    return draw_samples(Builtin(), small_decoder(), task, problems, TOKENIZER, CPU, sampling, seed)


@pytest.fixture(scope="module")
def drawn(task):
    return draw(task, range(30), SamplingConfig(per_prompt=40, keep=2, batch_size=8))


def test_samples_are_different_and_judged(task, drawn):
    assert len({(sample.prompt, sample.completion) for sample in drawn}) == len(drawn)
    problem = {problem.prompt: problem for problem in task.rl}
    for sample in drawn:
        assert sample.accuracy == task.accuracy(problem[sample.prompt], sample.completion)
        assert sample.reward == task.reward(problem[sample.prompt], sample.completion)
    assert {sample.accuracy for sample in drawn} == {0.0, 1.0}


def test_completions_that_did_not_end_are_left_out(drawn):
    assert all(len(sample.completion) < 3 for sample in drawn)


def test_samples_depend_on_the_seed_and_on_nothing_else(task):
    whole = draw(task, range(12))
    assert draw(task, range(12)) == whole
    assert draw(task, range(12), replace(SAMPLING, batch_size=5)) == whole
    assert draw(task, range(6)) + draw(task, range(6, 12)) == whole
    assert draw(task, range(12), seed=1) != whole


def test_verified_ones_are_right_and_at_most_so_many_of_a_prompt(drawn):
    examples = verified(drawn, keep=2)
    right = {(sample.prompt, sample.completion) for sample in drawn if sample.accuracy}
    assert examples
    assert {(example.prompt, example.answer) for example in examples} <= right
    prompts = [example.prompt for example in examples]
    assert max(map(prompts.count, prompts)) <= 2
    assert len(verified(drawn, keep=10**6)) == len(right)


def sample(prompt, completion, accuracy):
    return Sample(prompt, completion, accuracy, accuracy)


def test_pairs_are_of_one_prompts_right_and_wrong_answers_in_their_order():
    samples = [
        sample("a", "1", 0.0),
        sample("b", "2", 1.0),
        sample("a", "3", 1.0),
        sample("a", "4", 1.0),
        sample("a", "5", 0.0),
        sample("a", "6", 0.0),
    ]
    pairs = [(pair.prompt, pair.chosen, pair.rejected) for pair in preference_pairs(samples, keep=9)]
    assert pairs == [("a", "3", "1"), ("a", "4", "5")]
    assert len(preference_pairs(samples, keep=1)) == 1


def test_what_is_written_is_read_again(tmp_path):
    samples = [Sample("1+\n2=", "\u00e43", 1.2, 1.0), Sample("", "", -0.5, 0.0)]
    write_samples(samples, tmp_path / "new")
    assert read_samples(tmp_path / "new") == samples
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["samples.jsonl"]
