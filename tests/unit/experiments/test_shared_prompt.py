import pytest
import torch

from experiments.losses import sft_loss
from experiments.models import shared_prompt
from experiments.models.shared_prompt import completion_logits, group_layout
from tests.unit.experiments.decoders import VOCAB, small_decoder

PADDING = pytest.mark.parametrize("padding", [None, torch.tensor([0, 2, 1])], ids=["no-padding", "padding"])


def _group(padding):
    prompts, completions = torch.randint(3, VOCAB, (3, 6)), torch.randint(3, VOCAB, (12, 5))
    repeated = prompts.repeat_interleave(4, dim=0)
    return prompts, repeated, completions, padding, None if padding is None else padding.repeat_interleave(4)


@PADDING
def test_a_shared_prompt_gives_the_logits_of_a_repeated_prompt(padding):
    decoder = small_decoder()
    prompts, repeated, completions, padding, repeated_padding = _group(padding)
    torch.testing.assert_close(
        completion_logits(decoder, prompts, completions, padding),
        completion_logits(decoder, repeated, completions, repeated_padding),
        atol=1e-5,
        rtol=1e-5,
    )


@PADDING
def test_a_shared_prompt_gives_the_loss_and_gradients_of_a_repeated_prompt(padding):
    prompts, repeated, completions, padding, repeated_padding = _group(padding)
    mask = torch.rand(completions.shape) < 0.7
    shared, separate = small_decoder(), small_decoder()
    shared_loss = sft_loss(completion_logits(shared, prompts, completions, padding), completions, mask)
    separate_loss = sft_loss(completion_logits(separate, repeated, completions, repeated_padding), completions, mask)
    shared_loss.backward()
    separate_loss.backward()
    torch.testing.assert_close(shared_loss, separate_loss)
    for a, b in zip(shared.parameters(), separate.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=2e-5, rtol=1e-4)


def test_completions_of_a_group_do_not_see_each_other():
    decoder = small_decoder()
    prompts, completions = torch.randint(3, VOCAB, (1, 4)), torch.randint(3, VOCAB, (3, 5))
    changed = completions.clone()
    changed[1:] = 7
    torch.testing.assert_close(
        completion_logits(decoder, prompts, completions)[0], completion_logits(decoder, prompts, changed)[0]
    )


def test_the_last_token_of_a_completion_is_not_computed():
    decoder = small_decoder()
    prompts, completions = torch.randint(3, VOCAB, (1, 4)), torch.randint(3, VOCAB, (2, 5))
    changed = completions.clone()
    changed[:, -1] = 7
    assert torch.equal(completion_logits(decoder, prompts, completions), completion_logits(decoder, prompts, changed))


def test_prompts_are_repeated_where_sharing_would_not_pay(monkeypatch):
    monkeypatch.setattr(shared_prompt, "SHARED_ROWS_MAX", 8)
    prompts, layout = group_layout(torch.randint(3, VOCAB, (2, 4)), group_size=3, steps=3, padding=None)
    assert (prompts.shape[0], layout.group_size) == (6, 1)


def test_repeating_prompts_gives_the_same_logits(monkeypatch):
    decoder = small_decoder()
    prompts, completions = torch.randint(3, VOCAB, (2, 4)), torch.randint(3, VOCAB, (6, 5))
    shared = completion_logits(decoder, prompts, completions)
    monkeypatch.setattr(shared_prompt, "SHARED_ROWS_MAX", 1)
    torch.testing.assert_close(completion_logits(decoder, prompts, completions), shared, atol=1e-5, rtol=1e-5)
