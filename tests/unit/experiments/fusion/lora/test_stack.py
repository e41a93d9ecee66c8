"""Many adapters over one base: their logits and gradients are those of each alone, and the base stays as it is."""

import copy
from dataclasses import asdict

import pytest
import torch
from torch import nn

from experiments.batches import encode_prompts
from experiments.fusion.lora.base import FrozenBase
from experiments.fusion.lora.stack import LoraStack
from experiments.models.hf import HfModel
from experiments.models.shared_prompt import completion_logits
from experiments.rollout import generate
from orchestrator.schema.fusion_key import fusion_key
from orchestrator.schema.training import HfModelConfig, LoraConfig, stage_config
from tests.unit.experiments.fusion.fused_runs import CPU, FusedRun, advance, variants
from tests.unit.experiments.fusion.lora.lora_runs import (
    MAX_RANK,
    SHAPES,
    SHORT,
    TARGETS,
    TOKENIZER,
    lora_bundle,
    random_adapter,
    tiny_model,
)
from tests.unit.experiments.peft_alone import LoraModel

CLOSE = {"atol": 5e-4, "rtol": 1e-4}


def stacked(width, family="llama", targets=TARGETS):
    model = tiny_model(family)
    base = FrozenBase(copy.deepcopy(model), targets)
    adapters = [random_adapter(base, *shape, seed=n) for n, shape in enumerate(SHAPES[:width])]
    return model, LoraStack.of(base, adapters, MAX_RANK), adapters


@pytest.mark.parametrize("targets", [TARGETS, ("o_proj", "gate_proj", "up_proj", "k_proj", "lm_head")], ids="+".join)
@pytest.mark.parametrize("width", [1, 2, 8])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_logits_and_gradients_are_those_of_each_adapter_alone(family, width, targets):
    model, stack, adapters = stacked(width, family, targets)
    prompts, completions = torch.randint(3, 99, (2 * width, 5)), torch.randint(3, 99, (4 * width, 4))
    padding = torch.tensor([0, 2] * width)
    logits = completion_logits(stack, prompts, completions, padding)
    logits.log_softmax(dim=-1)[..., 5].sum().backward()
    for member, adapter in enumerate(adapters):
        alone = LoraModel(copy.deepcopy(model), adapter)
        mine, ours = slice(2 * member, 2 * member + 2), slice(4 * member, 4 * member + 4)
        expected = completion_logits(alone, prompts[mine], completions[ours], padding[mine])
        torch.testing.assert_close(logits[ours], expected, **CLOSE)
        expected.log_softmax(dim=-1)[..., 5].sum().backward()
        gradients = stack.lora_layout.narrow(stack.weights.grad[member], adapter.rank)
        for name, weight in alone.trained().items():
            torch.testing.assert_close(gradients[name], weight.grad, atol=2e-3, rtol=1e-3, msg=name)


def test_decoding_with_the_cache_samples_what_each_samples_alone():
    model, stack, adapters = stacked(3)
    texts, noise = ["12+3=", "1+1=", "9+9="], torch.rand(3, 12, 6)
    prompts = encode_prompts(texts * 3, TOKENIZER, CPU)
    fused = generate(stack, prompts, TOKENIZER, 6, group_size=4, noise=noise.flatten(0, 1), members=3)
    for member, adapter in enumerate(adapters):
        alone = LoraModel(copy.deepcopy(model), adapter)
        solo = generate(alone, encode_prompts(texts, TOKENIZER, CPU), TOKENIZER, 6, group_size=4, noise=noise[member])
        assert fused.tokens[12 * member : 12 * member + 12].tolist() == solo.tokens.tolist()


def test_what_lies_beyond_a_members_rank_stays_zero(lora_study):
    even, _, tasks, model = lora_study
    bundle = lora_bundle(model, tasks[even], {str(n): d for n, d in enumerate(variants(even, SHORT["sft"], 4))})
    advance(bundle, FusedRun(), 10)
    stack, optimizer = bundle.engine.stack, bundle.engine.optimizer
    for rows in (stack.weights.detach(), optimizer.exp_avg, optimizer.exp_avg_sq):
        for member, size in enumerate(stack.sizes):
            pieces = stack.layout.unpack(rows[member])
            for site in stack.base.sites:
                assert not pieces[site.a][size.rank :].any()
                assert not pieces[site.b][:, size.rank :].any()
                assert pieces[site.b][:, : size.rank].any()


@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
def test_training_changes_no_bit_of_the_base(lora_study, algorithm):
    even, _, tasks, model = lora_study
    datas = {str(n): data for n, data in enumerate(variants(even, SHORT[algorithm], 3))}
    bundle = lora_bundle(model, tasks[even], datas)
    advance(bundle, FusedRun(), 10)
    assert any(weight.any() for name, weight in bundle.adapter("0").weights.items() if "lora_B" in name)
    after = bundle.base.model.model.state_dict()
    assert after.keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(after[name], weight), name
    assert all(weight.grad is None for weight in bundle.base.model.parameters())


def test_the_base_is_held_once_whatever_the_number_of_members(lora_study):
    """Bytes of all tensors that a bundle holds: the base, and four rows a member, a reference's fifth where asked."""
    even, _, tasks, model = lora_study
    datas = {str(n): data for n, data in enumerate(variants(even, SHORT["grpo"], 8))}
    bundle = lora_bundle(model, tasks[even], datas)
    advance(bundle, FusedRun(), 1)
    base_bytes = sum(weight.nbytes for weight in model.parameters())
    row_bytes = 4 * bundle.engine.stack.layout.row_size
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(bundle)}
    with_reference = sum(data["algorithm"].get("kl_weight", 0.0) > 0.0 for data in datas.values())
    # Weights and two moments of each; a gradient while there is one; initial and gathered reference rows.
    assert sum(held.values()) <= base_bytes + (4 * 8 + 2 * with_reference) * row_bytes + 4096
    assert sum(held.values()) >= base_bytes + 3 * 8 * row_bytes


def _tensors(root):
    """All tensors that can be reached from an object: attributes, containers, modules, and what hooks close over."""
    seen, todo = set(), [root]
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, type):
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            yield value
            todo.append(value.grad if value.is_leaf else None)
        elif isinstance(value, dict):
            todo.extend(value.values())
        elif isinstance(value, list | tuple | set):
            todo.extend(value)
        else:
            todo.extend(getattr(value, "__dict__", {}).values())
            todo.extend(getattr(value, name) for name in getattr(value, "__slots__", ()) if hasattr(value, name))
            todo.extend(cell.cell_contents for cell in getattr(value, "__closure__", None) or ())


def test_outside_a_stacks_forward_pass_the_base_is_itself():
    model, stack, _ = stacked(2)
    tokens, positions = torch.randint(3, 99, (2, 5)), torch.arange(5)
    assert not torch.allclose(stack(tokens, positions), HfModel(model)(tokens, positions))
    assert torch.equal(stack.base.model(tokens, positions), HfModel(model)(tokens, positions))


def test_a_forward_pass_that_fails_leaves_no_adapter_behind():
    model, stack, _ = stacked(2)
    with pytest.raises(IndexError):
        stack(torch.full((2, 5), 1000), torch.arange(5))
    tokens, positions = torch.randint(3, 99, (2, 5)), torch.arange(5)
    assert torch.equal(stack.base.model(tokens, positions), HfModel(model)(tokens, positions))


def test_a_layer_whose_rows_are_not_those_of_the_batch_is_refused():
    class Shuffling(nn.Module):
        """As a mixture of experts does it: all tokens as one list."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x.flatten(0, 1)).view(*x.shape[:2], -1)

    model = tiny_model()
    model.model.layers[0].mlp = Shuffling(model.model.layers[0].mlp)
    base = FrozenBase(model, TARGETS)
    stack = LoraStack.of(base, [random_adapter(base, 2, 2.0)], MAX_RANK)
    with pytest.raises(ValueError, match=r"layers.0.mlp.inner.down_proj gets .*target_modules"):
        stack(torch.randint(3, 99, (2, 5)), torch.arange(5))


def test_a_rank_beyond_the_stacks_is_refused():
    base = FrozenBase(tiny_model(), TARGETS)
    with pytest.raises(ValueError, match=r"model\.lora\.rank=9: this stack's members have ranks up to 8"):
        LoraStack.of(base, [random_adapter(base, 9, 2.0)], MAX_RANK)


def test_over_a_base_in_half_precision_the_adapters_stay_in_single():
    model = tiny_model().to(torch.bfloat16)
    base = FrozenBase(copy.deepcopy(model), TARGETS)
    adapters = [random_adapter(base, *shape, seed=n) for n, shape in enumerate(SHAPES[:2])]
    stack = LoraStack.of(base, adapters, MAX_RANK)
    assert stack.weights.dtype == torch.float32
    tokens, positions = torch.randint(3, 99, (4, 6)), torch.arange(6)
    logits = stack(tokens, positions)
    for member, adapter in enumerate(adapters):
        alone = LoraModel(copy.deepcopy(model), adapter)(tokens[2 * member : 2 * member + 2], positions)
        torch.testing.assert_close(logits[2 * member : 2 * member + 2], alone, atol=0.05, rtol=0.02)


def test_a_base_is_loaded_as_a_stages_config_names_it(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    base = FrozenBase.load(HfModelConfig(path=str(tmp_path), lora=LoraConfig(target_modules=list(TARGETS))), CPU)
    tokens, positions = torch.randint(3, 99, (2, 5)), torch.arange(5)
    assert torch.equal(base.model(tokens, positions), HfModel(model)(tokens, positions))
    assert [site.name.rpartition(".")[2] for site in base.sites] == ["q_proj", "v_proj", "down_proj"] * 2


def test_members_share_a_key_whatever_their_rank_and_alpha(lora_study):
    data = asdict(stage_config(variants(lora_study[0], SHORT["sft"], 1)[0]))

    def key(**lora):
        return fusion_key({**data, "model": asdict(HfModelConfig(path="base", lora=LoraConfig(**lora)))})

    assert key(rank=2, alpha=4.0) == key(rank=8, alpha=1.0)
    assert key(max_rank=8) != key(max_rank=16)
    assert key(target_modules=["q_proj"]) != key(target_modules=["v_proj"])
