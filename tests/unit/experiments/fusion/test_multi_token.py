"""Fused = solo for decoders that predict further tokens: what their modules compute and learn, and what stays."""

import pytest
import torch

from experiments.fusion.decoder import StackedDecoder
from experiments.fusion.stack import pack_all
from experiments.models.multi_token import MultiTokenDecoder, further_logits
from orchestrator.schema.training import AttentionKind
from tests.unit.experiments.fusion.beside import compare_every_step
from tests.unit.experiments.fusion.fused_runs import (
    GRPO,
    SFT,
    WEIGHTS,
    assert_same_trajectory,
    run_fused,
    run_solo,
    variants,
)
from tests.unit.experiments.fusion.test_architectures import ROUNDED
from tests.unit.experiments.test_multi_token import VOCAB, multi_token_decoder

MODULES = {"kind": "multi_token", "depth": 2, "weight": 0.3, "rl_weight": 0.3}
MOE = {"ffn": "moe", "experts": 4, "d_expert": 12, "bias_rate": 0.05}
SHAPES = {
    "heads": {},
    "mla": {"attention": AttentionKind.mla, "kv_rank": 8, "rope_dim": 4},
    "moe": MOE,
    "moe-auxiliary": {**MOE, "balancing": "auxiliary", "auxiliary_weight": 0.5},
    "untied": {"tie_embeddings": False},
}
EACH = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
ALGORITHMS = {"sft": SFT, "grpo": GRPO}
BOTH = pytest.mark.parametrize("algorithm", ["sft", "grpo"])


@EACH
def test_logits_and_gradients_are_those_of_the_members(shape):
    torch.manual_seed(0)
    decoders = [multi_token_decoder(seed=seed, **shape) for seed in range(3)]
    stack = StackedDecoder.of(decoders)
    prompts, completions = torch.randint(1, VOCAB, (6, 5)), torch.randint(1, VOCAB, (12, 4))
    padding = torch.tensor([0, 1, 2, 0, 3, 1])
    for row, count in enumerate(padding.tolist()):
        prompts[row, :count] = 0
    logits = further_logits(stack, prompts, completions, padding)
    parts = zip(decoders, prompts.chunk(3), completions.chunk(3), padding.chunk(3), strict=True)
    alone = [torch.cat(of_module) for of_module in zip(*(further_logits(*part) for part in parts), strict=True)]
    assert len(logits) == 3
    upstream = [torch.randn_like(some) for some in logits]
    for some in (logits, alone):
        torch.autograd.backward(some, upstream)
    for mine, theirs in zip(logits, alone, strict=True):
        torch.testing.assert_close(mine, theirs, atol=5e-5, rtol=1e-4)
    gradients = [{name: weight.grad for name, weight in decoder.named_parameters()} for decoder in decoders]
    beside = {name: torch.zeros(()) for name in stack.layout.beside}
    expected = pack_all(stack.layout, [{**gradient, **beside} for gradient in gradients])
    torch.testing.assert_close(stack.weights.grad, expected, atol=1e-3, rtol=1e-3)


def test_answers_shorter_than_the_depth_have_no_logits_there():
    stack = StackedDecoder.of([multi_token_decoder(depth=3, seed=seed) for seed in range(2)])
    prompts, completions = torch.randint(1, VOCAB, (4, 5)), torch.randint(1, VOCAB, (4, 2))
    assert [some.shape[1] for some in further_logits(stack, prompts, completions)] == [2, 1, 0, 0]


@EACH
def test_a_stack_takes_members_in_and_gives_them_back_whole(shape):
    decoders = [multi_token_decoder(seed=seed, **shape) for seed in range(3)]
    back = StackedDecoder.of(decoders).select([2, 0]).decoder(0)
    assert isinstance(back, MultiTokenDecoder)
    for name, tensor in decoders[2].state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor, atol=0, rtol=0)


def datas_of(problems, algorithm, width, *, calm=True, modules=MODULES, steps=20, **shape):
    datas = variants(problems, {**algorithm, "max_steps": steps}, width, calm=calm)
    return [{**data, "model": {**data["model"], "prediction": modules, **shape}} for data in datas]


@pytest.fixture(scope="module")
def warm(study):
    """Output of a warm-up with modules that is right now and then."""
    folder, even, _, _ = study
    (data,) = datas_of(even, {**SFT, "batch_size": 16}, 1, steps=150)
    run_solo(folder / "multi-token", [{**data, "optimizer": {"lr": 1e-2}}], "")
    return folder / "multi-token" / "solo-0" / "output"


def compare(folder, datas, parent, weights=WEIGHTS):
    solo, fused = run_solo(folder, datas, parent), run_fused(folder, datas, parent or None)
    for number, result in enumerate(solo):
        assert_same_trajectory(fused, str(number), result, weights)
    return fused


@BOTH
def test_two_members_go_the_ways_they_go_alone(study, warm, tmp_path, algorithm):
    _, even, _, _ = study
    fused = compare(tmp_path, datas_of(even, ALGORITHMS[algorithm], 2, steps=50), warm)
    assert fused.values("0", "train/further_loss") != fused.values("1", "train/further_loss")


@BOTH
def test_every_step_is_the_step_that_the_solo_stage_makes_from_there(study, warm, tmp_path, algorithm):
    _, _, mixed, _ = study
    compare_every_step(tmp_path, datas_of(mixed, ALGORITHMS[algorithm], 8, calm=False), warm)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 8])
@BOTH
def test_members_of_other_widths_go_the_ways_they_go_alone(study, warm, tmp_path, algorithm, width):
    _, even, _, _ = study
    compare(tmp_path, datas_of(even, ALGORITHMS[algorithm], width, steps=50), warm)


@BOTH
def test_modules_that_are_not_learned_stay_as_they_are_whatever_decays(study, warm, tmp_path, algorithm):
    _, even, _, _ = study
    datas = datas_of(even, ALGORITHMS[algorithm], 2, modules={**MODULES, "weight": 0.0, "rl_weight": 0.0})
    for data in datas:
        data["optimizer"]["weight_decay"] = 0.5
    fused = compare(tmp_path, datas, warm)
    before = run_fused(tmp_path, [{**data, "algorithm": {**data["algorithm"], "max_steps": 0}} for data in datas], warm)
    for name, weight in fused.weights["0"].items():
        assert torch.equal(weight, before.weights["0"][name]) is name.startswith("further."), name


def test_experts_of_modules_are_balanced_as_alone():
    decoders = [multi_token_decoder(seed=seed, **MOE) for seed in range(3)]
    stack = StackedDecoder.of(decoders)
    prompts, completions = torch.randint(1, VOCAB, (6, 5)), torch.randint(1, VOCAB, (6, 4))
    completions[2:4, 2:] = 0  # padding to the longest of another member
    for _ in range(3):
        further_logits(stack, prompts, completions)
        stack.routing.balance()
        for decoder, *part in zip(decoders, prompts.chunk(3), completions.chunk(3), strict=True):
            further_logits(decoder, *part)
            for experts in decoder.experts:
                experts.balance(experts.take_load())
    moved = torch.stack([torch.stack([experts.bias_steps for experts in decoder.experts]) for decoder in decoders])
    assert torch.equal(stack.routing.bias_steps, moved)
    assert moved[:, -2:].any()


def test_supervised_members_with_experts_go_the_ways_they_go_alone(study, tmp_path):
    """A few steps: a token at the edge between two experts goes either way by rounding, some day."""
    _, _, mixed, _ = study
    datas = datas_of(mixed, SFT, 2, steps=3, **MOE)
    for data in datas:
        data["optimizer"]["lr"] *= 0.3
    compare(tmp_path, datas, "")


def test_groups_that_are_there_for_another_members_sake_balance_no_expert(study, tmp_path):
    _, even, _, _ = study
    (data,) = datas_of(even, {**SFT, "batch_size": 16}, 1, steps=150, **MOE)
    run_solo(tmp_path / "warm-up", [{**data, "optimizer": {"lr": 1e-2}}], "")
    datas = datas_of(even, GRPO, 3, steps=4, **MOE)
    fused = compare(tmp_path, datas, tmp_path / "warm-up" / "solo-0" / "output", ROUNDED)
    skipped = [fused.values(name, "train/groups_skipped") for name in ("0", "1", "2")]
    assert any(len(set(of_step)) > 1 for of_step in zip(*skipped, strict=True))
