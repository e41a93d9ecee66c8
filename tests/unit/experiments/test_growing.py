"""A cache whose rows are written in place holds, and makes a model say, what one that is extended by copies does."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.batches import encode_prompts
from experiments.fusion.decoder import StackedDecoder
from experiments.models import growing
from experiments.models.attention import KVCache
from experiments.models.growing import GrowingRows
from experiments.models.hf import FullModel, load_base
from experiments.models.kv_cache import QuantizedHfCache, QuantizedKVCache, QuantizedRows, WithQuantizedCache
from experiments.rollout import generate, sampling_noise
from experiments.rollout.speculative import speculate
from experiments.tasks import CharTokenizer
from tests.hf_models import write_model
from tests.unit.experiments.decoders import VOCAB, small_decoder
from tests.unit.experiments.test_multi_token import multi_token_decoder

TOKENIZER = CharTokenizer()
CPU = torch.device("cpu")
TEXTS = ["1+1=", "12+34=", "5+123="]
GROUP, STEPS = 4, 10
LATENT = {"attention": "mla", "kv_rank": 12, "rope_dim": 4}


@pytest.fixture
def in_place(monkeypatch):
    """Rows are written in place however few bytes there are."""
    monkeypatch.setattr(growing, "IN_PLACE_MIN_BYTES", 0)


def rows_of(*counts, seed=0, batch=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 2, count, 8, generator=generator) for count in counts]


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=9),
    st.integers(0, 30),
    st.sampled_from([0, 1000, sys.maxsize]),
    st.integers(0, 8),
)
@settings(deadline=None)
@torch.no_grad()
def test_it_holds_every_row_in_order_and_what_it_gave_before_stays(counts, reserved, least, drop_after):
    added = rows_of(*counts)
    tensor, expected, given_ = GrowingRows(reserved), added[0][:, :, :0], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growing, "IN_PLACE_MIN_BYTES", least)
        for index, new in enumerate(added):
            new = new[: len(expected)]
            expected = torch.cat((expected, new), dim=-2)
            given_.append((tensor.extend(new), expected))
            assert (tensor.rows, tensor.bytes) == (expected.shape[-2], expected.nbytes)
            if index == drop_after:
                kept = torch.tensor([2, 0])
                expected = expected[kept]
                tensor.select(kept)
    for mine, theirs in given_:
        assert torch.equal(mine, theirs)


@torch.no_grad()
def test_rows_are_written_where_there_is_room_and_room_is_for_what_was_reserved_alone(in_place):
    tensor, row = GrowingRows(reserved=9), 3 * 2 * 8 * 4
    first, *later = rows_of(4, 1, 2, 2, 1)
    tensor.extend(first)
    held = [tensor.extend(new) for new in later]
    assert len({some.data_ptr() for some in held[:3]}) == 1
    assert held[2].untyped_storage().nbytes() == 9 * row
    assert held[3].data_ptr() != held[2].data_ptr()
    assert held[3].untyped_storage().nbytes() == 2 * 10 * row


@torch.no_grad()
def test_entries_that_are_dropped_leave_no_storage_behind(in_place):
    tensor = GrowingRows(reserved=9)
    for new in rows_of(4, 1):
        tensor.extend(new)
    tensor.select(torch.tensor([1]))
    (new,) = rows_of(1, batch=1)
    assert tensor.extend(new).untyped_storage().nbytes() == 1 * 2 * 9 * 8 * 4


@torch.no_grad()
@pytest.mark.parametrize(("missing", "stored_rows"), [(1, 2), (0, 5)])
def test_what_is_too_small_is_copied_and_has_no_room(missing, stored_rows):
    row = torch.zeros(1, 1, growing.IN_PLACE_MIN_BYTES // 4 - missing)
    tensor = GrowingRows(reserved=5)
    tensor.extend(row)
    assert tensor.extend(row).untyped_storage().nbytes() == stored_rows * row.nbytes


@pytest.mark.parametrize("learned", range(5))
def test_gradients_flow_whatever_is_added_around_them(in_place, learned):
    """One of the rows is learned from, the others are added without gradients, before and behind it."""
    tensor, added = GrowingRows(reserved=12), rows_of(2, 3, 1, 1, 2)
    added[learned].requires_grad_()
    for index, new in enumerate(added):
        with torch.set_grad_enabled(index == learned):
            held = tensor.extend(new)
        assert torch.equal(held, torch.cat(added[: index + 1], dim=-2))
        if index == learned:
            loss = held.square().sum()
    loss.backward()
    torch.testing.assert_close(added[learned].grad, 2 * added[learned].detach())


@torch.no_grad()
def test_rows_of_another_batch_are_refused(in_place):
    tensor, (one,), (three,) = GrowingRows(), rows_of(1, batch=1), rows_of(2)
    tensor.extend(three)
    with pytest.raises(ValueError, match=r"\(1, 2, 1, 8\) can't follow those of \(3, 2, 2, 8\)"):
        tensor.extend(one)


def sampled(model, members=1, group=GROUP, cold=1.0):
    prompts = encode_prompts(TEXTS * members, TOKENIZER, CPU)
    noise = sampling_noise(len(prompts) * group, STEPS, torch.Generator().manual_seed(1))
    return generate(model, prompts, TOKENIZER, STEPS, group_size=group, temperature=cold, noise=noise, members=members)


def ending(seed=0, urge=4.0, **shape):
    """A decoder some of whose groups end early, so that they leave the batch."""
    decoder = small_decoder(seed, **shape)
    with torch.no_grad():
        decoder.embedding.weight[TOKENIZER.eos_id] *= urge
    return decoder


def hugging_face(folder):
    write_model(folder, vocab_size=VOCAB)
    return FullModel(load_base(folder))


MODELS = {
    "mha": lambda folder: ending(),
    "gqa": lambda folder: ending(kv_heads=2),
    "mqa": lambda folder: ending(kv_heads=1),
    "mla": lambda folder: ending(**LATENT),
    "8 bits": lambda folder: WithQuantizedCache(ending(), lambda: QuantizedKVCache(2, 8)),
    "6 bits": lambda folder: WithQuantizedCache(ending(), lambda: QuantizedKVCache(2, 6)),
    "latents in 6 bits": lambda folder: WithQuantizedCache(ending(**LATENT), lambda: QuantizedKVCache(2, 6)),
    "hugging face": hugging_face,
    "hugging face in 8 bits": lambda folder: WithQuantizedCache(hugging_face(folder), lambda: QuantizedHfCache(8)),
}


@pytest.mark.parametrize("group", [1, GROUP, 100], ids=["alone", "shared prompt", "repeated prompt"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_model_says_the_same_to_the_bit(monkeypatch, tmp_path, kind, group):
    model, rollouts = MODELS[kind](tmp_path), []
    for least in (sys.maxsize, 0):
        monkeypatch.setattr(growing, "IN_PLACE_MIN_BYTES", least)
        rollouts.append(sampled(model, group=group))
    by_copies, written = rollouts
    assert torch.equal(by_copies.tokens, written.tokens)
    assert torch.equal(by_copies.log_probs, written.log_probs)


@pytest.mark.parametrize("shape", [{}, LATENT], ids=["mha", "mla"])
def test_a_stack_says_the_same_to_the_bit(monkeypatch, shape):
    stack, rollouts = StackedDecoder.of([ending(seed, 2.0 + 3 * seed, **shape) for seed in range(3)]), []
    for least in (sys.maxsize, 0):
        monkeypatch.setattr(growing, "IN_PLACE_MIN_BYTES", least)
        rollouts.append(sampled(stack, members=3))
    assert torch.equal(rollouts[0].tokens, rollouts[1].tokens)
    assert torch.equal(rollouts[0].log_probs, rollouts[1].log_probs)


def test_guesses_are_checked_alike_on_rows_in_place(monkeypatch):
    decoder = multi_token_decoder(depth=2)
    prompts, results = encode_prompts(TEXTS, TOKENIZER, CPU), []
    for least in (sys.maxsize, 0):
        monkeypatch.setattr(growing, "IN_PLACE_MIN_BYTES", least)
        results.append(speculate(decoder, prompts, TOKENIZER, STEPS))
    assert torch.equal(results[0].rollout.tokens, results[1].rollout.tokens)
    assert (results[0].taken, results[0].rounds) == (results[1].taken, results[1].rounds)
    assert results[0].rounds > 1


@pytest.mark.parametrize("group", [1, GROUP, 100], ids=["alone", "shared prompt", "repeated prompt"])
def test_as_many_rows_are_reserved_as_there_are_in_the_end(group):
    reserved, caches = [], []

    def empty(rows):
        reserved.append(rows)
        return QuantizedRows(8, rows)

    def new_cache():
        caches.append(KVCache(2, empty))
        return caches[-1]

    prompts = encode_prompts(TEXTS, TOKENIZER, CPU)
    model = WithQuantizedCache(small_decoder(), new_cache)
    generate(model, prompts, TOKENIZER, STEPS, group_size=group, ask_for_ends=False)
    assert reserved == [caches[0].rows] * 4
