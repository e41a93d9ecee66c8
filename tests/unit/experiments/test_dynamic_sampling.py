import torch

from experiments import dynamic_sampling
from experiments.batches import encode_prompts
from experiments.dynamic_sampling import first, first_of_gang, has_spread, joined_prompts
from experiments.tasks import CharTokenizer

TOKENIZER = CharTokenizer()
CPU = torch.device("cpu")


def test_a_group_has_spread_if_its_rewards_differ():
    assert has_spread(torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])).tolist() == [False, True, False]


def test_each_row_takes_its_own_number_of_first_ones():
    spread = torch.tensor([[True, False, True, True], [False, True, True, True]])
    chosen = first(spread, torch.tensor([[2], [0]]))
    assert chosen.tolist() == [[True, False, True, False], [False] * 4]


def test_a_gang_chooses_what_one_process_would(monkeypatch):
    everybody = torch.tensor([False, True, True, False, True, True])
    monkeypatch.setattr(dynamic_sampling, "sum_over_processes", lambda _: everybody.long())
    parts = [first_of_gang(everybody[mine], mine, 6, wanted=3) for mine in (slice(0, 3), slice(3, 6))]
    assert [found for _, found in parts] == [3, 3]
    assert torch.cat([chosen for chosen, _ in parts]).tolist() == [False, True, True, False, True, False]


def test_joined_prompts_are_those_of_one_encoding():
    texts = ["1+2=", "10+3=", "7=", "8="]
    together = encode_prompts(texts, TOKENIZER, CPU)
    parts = [encode_prompts(texts[:2], TOKENIZER, CPU), encode_prompts(texts[2:], TOKENIZER, CPU)]
    joined = joined_prompts(parts, TOKENIZER.pad_id)
    assert torch.equal(joined.tokens, together.tokens)
    assert torch.equal(joined.padding, together.padding)
