"""What the benchmark counts, and that its systems do the same work."""

import pytest
import torch

from experiments.models.decoder import Decoder
from experiments.rollout import generate
from experiments.rollout.engine import Builtin
from orchestrator.schema.training import ModelConfig
from tests.bench.rollout import EOS, PAD, Ids, drawn_prompts, generated_tokens, ours, summary


def test_tokens_count_up_to_the_end():
    assert generated_tokens(torch.tensor([[5, EOS, PAD, PAD], [5, 6, 7, 8], [EOS, PAD, PAD, PAD]])) == 2 + 4 + 1


def test_prompts_are_padded_on_the_left_and_of_many_lengths():
    prompts = drawn_prompts(8, 20, torch.Generator().manual_seed(0))
    assert prompts.padding is not None
    assert len(prompts.padding.unique()) > 2
    assert all((row[:count] == PAD).all() for row, count in zip(prompts.tokens, prompts.padding, strict=True))
    assert all((row[count:] > EOS).all() for row, count in zip(prompts.tokens, prompts.padding, strict=True))


def test_our_systems_generate_the_same_tokens():
    generator = torch.Generator().manual_seed(0)
    prompts = drawn_prompts(3, 20, generator)
    decoder = Decoder(ModelConfig(d_model=16, layers=1, heads=2, kv_heads=2, d_ff=32), 20, generator)
    counts = [ours(sample, decoder, prompts, 4, Ids(20))() for sample in (Builtin(8).sample, generate)]
    assert counts[0] == counts[1] < 3 * 4 * 64


def test_ratios_are_to_generate_in_the_same_turn():
    rows = summary({"hugging_face": [10.0, 20.0, 40.0], "builtin": [40.0, 60.0, 80.0]})
    assert rows["builtin"]["times_in_turn"] == pytest.approx(3.0)
    assert rows["builtin"]["times_best"] == pytest.approx(2.0)
    assert rows["hugging_face"]["low"] == 10.0
