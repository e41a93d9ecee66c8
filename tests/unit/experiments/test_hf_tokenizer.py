"""The tokenizer of a Hugging Face model behind the project's own interface."""

import pytest
import torch

from experiments.batches import encode_answers, encode_prompts
from experiments.tasks import load_task
from experiments.tasks.hf_tokenizer import HfTokenizer, load
from experiments.tasks.tokenizer import hf_tokenizer_of
from orchestrator.schema.training import HfModelConfig, SplitConfig, TaskConfig
from tests.hf_models import CHAT_TEMPLATE, write_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(a tokenizer without a chat template, one with it)"""
    plain, chat = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("chat")
    write_tokenizer(plain)
    write_tokenizer(chat, chat_template=CHAT_TEMPLATE)
    return plain, chat


@pytest.fixture
def tokenizer(folders):
    return load(str(folders[0]), "auto")


def test_a_prompt_is_bos_and_text_where_there_is_no_template(tokenizer):
    prompts = encode_prompts(["1+1=", "12+3="], tokenizer, CPU)
    assert tokenizer.encode("12+3=") == [17, 13, 6, 14]  # 12 is one token
    assert prompts.tokens.tolist() == [[1, 4, 13, 4, 14], [1, 17, 13, 6, 14]]
    assert prompts.padding is None


def test_a_bos_that_the_tokenizer_puts_nowhere_is_put_nowhere(tmp_path):
    write_tokenizer(tmp_path, begins=False)
    tokenizer = load(str(tmp_path), "auto")
    assert tokenizer._tokenizer.bos_token_id == 1
    assert list(tokenizer.prompt_rows(["12+3="]).ids) == [17, 13, 6, 14]
    assert tokenizer.prompt_length("12+3=") == 4


def test_a_prompt_is_a_users_message_where_there_is_one(folders):
    with_template, without = (load(str(folders[1]), choice) for choice in ("auto", "none"))
    assert with_template.decode(with_template.prompt_rows(["1+1="]).ids) == "1+1=>"
    assert with_template.prompt_length("1+1=") == 6
    assert without.prompt_length("1+1=") == 5


def test_prompts_are_padded_on_the_left_and_answers_end_with_eos(tokenizer):
    prompts = encode_prompts(["1+1=", "3+12+3="], tokenizer, CPU)
    assert prompts.tokens[0].tolist() == [0, 0, 1, 4, 13, 4, 14]
    assert prompts.padding.tolist() == [2, 0]
    answers = encode_answers(["12", "345"], tokenizer, CPU)
    assert answers.tokens.tolist() == [[17, 2, 0, 0], [6, 7, 8, 2]]
    assert answers.mask.tolist() == [[True, True, False, False], [True] * 4]


def test_eos_is_learned_where_it_is_also_what_pads(tokenizer):
    tokenizer._tokenizer.pad_token = None
    padless = HfTokenizer(tokenizer._tokenizer, with_template=False)
    assert padless.pad_id == padless.eos_id
    answers = encode_answers(["1", "345"], padless, CPU)
    assert answers.tokens[0].tolist() == [4, 2, 2, 2]
    assert answers.mask[0].tolist() == [True, True, False, False]


def test_decoding_stops_at_eos_and_skips_what_is_no_text(tokenizer):
    assert tokenizer.decode([0, 1, 17, 13, 23, 6, 2, 6]) == "12+3"


def test_lengths_of_a_task_are_in_the_models_tokens(folders, tmp_path):
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(f'{{"prompt": "12+12+{i}=", "answer": "12"}}\n' for i in range(4)))
    task = TaskConfig(source="jsonl", path=str(problems), max_answer_tokens=2, split=SplitConfig(1, 1, 1))
    model = HfModelConfig(path=str(folders[0]))
    assert len(load_task(task, tmp_path, model).rl) == 2
    with pytest.raises(ValueError, match=r"max_answer_tokens=2: .* has 3 tokens, EOS included"):
        load_task(task, tmp_path)
    task.max_prompt_tokens = 5
    with pytest.raises(ValueError, match=r"max_prompt_tokens=5: .* has 6 tokens"):
        load_task(task, tmp_path, model)


def test_text_beyond_ascii_is_for_models_that_have_it(folders, tmp_path):
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(f'{{"prompt": "{i}×2=", "answer": "{2 * i}"}}\n' for i in range(4)))
    task = TaskConfig(source="jsonl", path=str(problems), split=SplitConfig(1, 1, 1))
    assert len(load_task(task, tmp_path, HfModelConfig(path=str(folders[0]))).rl) == 2


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"model.path={tmp_path}: no tokenizer.json"):
        hf_tokenizer_of(HfModelConfig(path=str(tmp_path)))
