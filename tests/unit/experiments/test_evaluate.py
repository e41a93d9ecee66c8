"""What an evaluation says of answers that are known, alone and in a gang."""

import os

import pytest
import torch
from scipy.stats import binomtest

from experiments.batches import encode_prompts
from experiments.evaluate import FOLDS, evaluate, of_counts, wilson_interval
from experiments.judging import Judge
from experiments.rollout import generate
from experiments.tasks import CharTokenizer, Problem, Task
from orchestrator.schema.training import TaskConfig
from tests.unit.experiments.children import run_gang, run_in_child
from tests.unit.experiments.decoders import small_decoder

TOKENIZER = CharTokenizer()
PROMPTS = [f"{a}+{b}=" for a in range(9) for b in (1, 22)]
PROMPTS_ANSWERED_RIGHT = PROMPTS[:4]
MAX_ANSWER_TOKENS = 24


def _decoder():
    decoder = small_decoder(seed=2)
    with torch.no_grad():
        decoder.embedding.weight[TOKENIZER.eos_id] *= 3.0  # ends every answer, each at its own length
    return decoder


def _answer_alone(decoder, prompt):
    """Greedy tokens of one prompt in a batch of its own, EOS included."""
    prompts = encode_prompts([prompt], TOKENIZER, decoder.device)
    tokens = generate(decoder, prompts, TOKENIZER, MAX_ANSWER_TOKENS).tokens[0].tolist()
    return tokens[: tokens.index(TOKENIZER.eos_id) + 1]


def _exact_match(answer, problem):
    return float(answer == problem.answer)


def _evaluate(rank=0, world_size=1, rendezvous="", max_answer_tokens=MAX_ANSWER_TOKENS):
    """The evaluation as process `rank` of a gang has it; a child runs it."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = torch.distributed.FileStore(rendezvous, world_size) if rendezvous else torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    decoder = _decoder()
    problems = [
        Problem(prompt, TOKENIZER.decode(_answer_alone(decoder, prompt)) if prompt in PROMPTS_ANSWERED_RIGHT else "no")
        for prompt in PROMPTS
    ]
    task = Task(TaskConfig(max_answer_tokens=max_answer_tokens), [], [], [], problems, _exact_match)
    return evaluate(decoder, Judge(task, TOKENIZER), problems, batch_size=3)


@pytest.fixture(scope="module")
def alone():
    return run_in_child(_evaluate)


@pytest.mark.parametrize(("right", "count"), [(0, 50), (1, 50), (25, 50), (50, 50)])
def test_the_interval_is_scipys_wilson_interval(right, count):
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson_interval(right, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_accuracy_is_the_fraction_of_right_answers(alone):
    assert alone.accuracy == len(PROMPTS_ANSWERED_RIGHT) / len(PROMPTS)


def test_a_fold_has_every_sixteenth_problem(alone):
    right = [float(prompt in PROMPTS_ANSWERED_RIGHT) for prompt in PROMPTS]
    assert len(PROMPTS) > FOLDS
    assert alone.folds == tuple(sum(right[fold::FOLDS]) / len(right[fold::FOLDS]) for fold in range(FOLDS))


def test_too_few_problems_have_no_folds():
    assert of_counts([1.0] * (FOLDS - 1) + [0.0], 30.0, FOLDS - 1).folds == ()


def test_tokens_per_answer_is_the_mean_length_up_to_eos(alone):
    lengths = [len(_answer_alone(_decoder(), prompt)) for prompt in PROMPTS]
    assert len(set(lengths)) > 3
    assert alone.tokens_per_answer == pytest.approx(sum(lengths) / len(lengths))


def test_padding_after_the_answers_counts_for_nothing(alone):
    assert run_in_child(_evaluate, 0, 1, "", 2 * MAX_ANSWER_TOKENS) == alone


def test_every_process_of_a_gang_has_the_evaluation_of_one_process(alone, tmp_path):
    rendezvous = str(tmp_path / "rendezvous")
    assert run_gang(_evaluate, [(rank, 2, rendezvous) for rank in range(2)]) == [alone, alone]
