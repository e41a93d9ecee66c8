"""What goes to vLLM and comes back. vLLM itself has not been run by any test."""

from pathlib import Path

import torch
from safetensors import safe_open

from experiments.batches import Prompts
from experiments.models.hf import FullModel, load_base
from experiments.rollout.vllm_tensors import prompt_ids, seeds_of, to_rollout, weights_by_name
from tests.hf_models import write_model


def test_prompts_go_without_their_padding():
    prompts = Prompts(torch.tensor([[0, 0, 5], [3, 4, 5]]), torch.tensor([2, 0]))
    assert prompt_ids(prompts) == [[5], [3, 4, 5]]
    assert prompt_ids(Prompts(prompts.tokens, None)) == [[0, 0, 5], [3, 4, 5]]


def test_a_seed_depends_on_the_completions_own_noise_only():
    noise = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    seeds = seeds_of(noise)
    assert len(set(seeds)) == 6
    assert seeds_of(noise[2:4]) == seeds[2:4]
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_weights_have_the_names_and_values_of_the_checkpoint(tmp_path: Path):
    write_model(tmp_path)
    sent = dict(weights_by_name(FullModel(load_base(tmp_path))))
    with safe_open(tmp_path / "model.safetensors", "pt") as saved:
        assert set(sent) == set(saved.keys())
        assert all(torch.equal(sent[name], saved.get_tensor(name)) for name in sent)
    assert not any(weight.requires_grad for weight in sent.values())


def test_completions_of_any_length_become_a_rollout():
    rollout = to_rollout([[7, 2], [5, 6, 7]], [[-0.5, -0.25], [-1.0, -2.0, -3.0]], 3, 0, torch.device("cpu"))
    assert rollout.tokens.tolist() == [[7, 2, 0], [5, 6, 7]]
    assert rollout.mask.tolist() == [[True, True, False], [True, True, True]]
    assert rollout.log_probs.tolist() == [[-0.5, -0.25, 0.0], [-1.0, -2.0, -3.0]]
