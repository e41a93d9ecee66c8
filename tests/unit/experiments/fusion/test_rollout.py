"""A stack decodes, samples and evaluates as its members do alone."""

import pytest
import torch

from experiments.batches import Prompts, encode_prompts
from experiments.evaluate import FOLDS
from experiments.fusion.decoder import StackedDecoder
from experiments.fusion.evaluate import evaluate_members
from experiments.judging import Judge
from experiments.rollout import generate, sampling_noise
from experiments.tasks import CharTokenizer, Problem, Task
from orchestrator.schema.training import TaskConfig
from tests.unit.experiments.decoders import small_decoder

TOKENIZER = CharTokenizer()
CPU = torch.device("cpu")
TEXTS = ["1+1=", "12+34=", "5+123=", "7+8="]
TEMPERATURES = [1.0, 0.6, 1.4]
MEMBERS, GROUP, STEPS = 3, 4, 10


def _members(urges_to_end=(0.0, 3.0, 8.0)):
    """Decoders that end at different times: by default the first hardly ever, the last soon."""
    decoders = [small_decoder(seed) for seed in range(MEMBERS)]
    with torch.no_grad():
        for decoder, urge in zip(decoders, urges_to_end, strict=True):
            decoder.embedding.weight[TOKENIZER.eos_id] *= urge
    return decoders


def _prompts(members=1):
    prompts = encode_prompts(TEXTS, TOKENIZER, CPU)
    return Prompts(prompts.tokens.repeat(members, 1), prompts.padding.repeat(members))


def _noise(member):
    return sampling_noise(len(TEXTS) * GROUP, STEPS, torch.Generator().manual_seed(member))


def _sampled_together(decoders, sizes=None, **options):
    noise = torch.cat([_noise(member) for member in range(MEMBERS)])
    heat, stack = torch.tensor(TEMPERATURES), StackedDecoder.of(decoders)
    if sizes is not None:
        stack.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0])))
    return generate(
        stack, _prompts(MEMBERS), TOKENIZER, STEPS,
        group_size=GROUP, temperature=heat, noise=noise, members=MEMBERS, **options,
    )  # fmt: skip


def _assert_as_alone(decoders, together):
    for member, rows in enumerate(torch.arange(len(together.tokens)).chunk(MEMBERS)):
        alone = generate(
            decoders[member], _prompts(), TOKENIZER, STEPS,
            group_size=GROUP, temperature=TEMPERATURES[member], noise=_noise(member),
        )  # fmt: skip
        assert torch.equal(together.tokens[rows], alone.tokens)
        assert torch.equal(together.mask[rows], alone.mask)
        torch.testing.assert_close(together.log_probs[rows], alone.log_probs, atol=1e-5, rtol=1e-4)


def test_each_member_samples_with_its_own_noise_at_its_own_temperature():
    decoders = _members()
    _assert_as_alone(decoders, _sampled_together(decoders))


def test_groups_that_ended_leave_and_take_nothing_of_the_others_along():
    decoders, sizes = _members(urges_to_end=(-15.0, -15.0, 15.0)), []
    together = _sampled_together(decoders, sizes)
    assert sizes[0] == MEMBERS * len(TEXTS)
    assert 0 < sizes[-1] <= sizes[0] // 2
    _assert_as_alone(decoders, together)


def test_members_end_at_different_times():
    lengths = _sampled_together(_members()).mask.view(MEMBERS, len(TEXTS), GROUP, STEPS).sum(dim=3).amax(dim=2)
    assert (lengths[2] < STEPS // 2).any()
    assert lengths[0].max() == STEPS


def test_not_asking_for_ends_gives_the_same_answers():
    asked, unasked = _sampled_together(_members()), _sampled_together(_members(), ask_for_ends=False)
    assert torch.equal(asked.tokens, unasked.tokens)
    assert torch.equal(asked.mask, unasked.mask)


def _task(verifier=lambda answer, problem: float(len(answer) % 2)):
    config = TaskConfig(max_answer_tokens=STEPS)
    return Task(config, [], [], [], [], verifier)


def _expected(decoder, problems):
    right, tokens = 0.0, 0
    for problem in problems:
        answer = generate(decoder, encode_prompts([problem.prompt], TOKENIZER, CPU), TOKENIZER, STEPS)
        right += _task().reward(problem, TOKENIZER.decode(answer.tokens[0].tolist()))
        tokens += int(answer.mask.sum())
    return right / len(problems), tokens / len(problems)


def test_members_are_evaluated_as_alone():
    decoders = _members()
    problems = [Problem(text, "") for text in [*TEXTS, "9+9="]]
    results = evaluate_members(StackedDecoder.of(decoders), Judge(_task(), TOKENIZER), problems, batch_size=2)
    expected = [_expected(decoder, problems) for decoder in decoders]
    assert [(result.accuracy, result.tokens_per_answer) for result in results] == expected
    assert all(result.low <= result.accuracy <= result.high for result in results)


def test_the_folds_of_a_member_are_those_of_the_member_alone():
    decoders = _members()
    problems = [Problem(f"{a}+{b}=", "") for a in range(6) for b in (1, 22, 3)]
    results = evaluate_members(StackedDecoder.of(decoders), Judge(_task(), TOKENIZER), problems, batch_size=5)
    for decoder, result in zip(decoders, results, strict=True):
        alone = [_expected(decoder, problems[fold::FOLDS])[0] for fold in range(FOLDS)]
        assert result.folds == pytest.approx(alone)


def test_some_members_can_be_evaluated_without_the_others():
    decoders = _members()
    problems = [Problem(text, "") for text in TEXTS]
    results = evaluate_members(StackedDecoder.of(decoders), Judge(_task(), TOKENIZER), problems, 8, members=[2, 0])
    expected = [_expected(decoders[member], problems) for member in (2, 0)]
    assert [(result.accuracy, result.tokens_per_answer) for result in results] == expected
    assert expected[0] != expected[1]
