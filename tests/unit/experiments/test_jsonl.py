import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from experiments.tasks import TaskError, load_task
from orchestrator.schema.training import SplitConfig, TaskConfig


def jsonl(directory, text, **fields):
    file = directory / "problems.jsonl"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    defaults = {"source": "jsonl", "path": str(file), "max_answer_tokens": 40, "split": SplitConfig(1, 1, 1)}
    return TaskConfig(**(defaults | fields))


LINES = "".join(f'{{"prompt": "{i}+1=", "answer": "{i + 1}", "level": {i}}}\n' for i in range(9, 19))


def test_jsonl_problems_are_split_and_scored_by_exact_match(tmp_path):
    task = load_task(jsonl(tmp_path, LINES + "\n" + LINES), tmp_path / "cache")  # a blank line and duplicates
    assert len(task.rl) == 8
    assert not set(task.rl) & set(task.dev + task.test)
    assert not set(task.dev) & set(task.test)
    problem = task.test[0]
    assert task.reward(problem, problem.answer) == 1.0
    assert task.reward(problem, problem.answer + " ") == 0.0
    assert f'"answer": "{problem.answer}"' in problem.entry
    assert '"level"' in problem.entry
    assert not (tmp_path / "cache").exists()


def test_jsonl_answers_can_be_trained_reversed(tmp_path):
    task = load_task(jsonl(tmp_path, LINES, answer_format="reversed"), tmp_path)
    problem = next(p for p in task.rl if p.prompt == "11+1=")
    assert problem.answer == "21"
    assert task.reward(problem, "21") == 1.0
    assert task.reward(problem, "12") == 0.0


@given(
    lines=st.lists(
        st.tuples(*[st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=9)] * 2),
        min_size=3,
        max_size=30,
        unique_by=lambda line: line[0],
    )
)
def test_jsonl_keeps_any_text(tmp_path_factory, lines):
    text = "\n".join(json.dumps({"prompt": prompt, "answer": answer}) for prompt, answer in lines)
    config = jsonl(tmp_path_factory.mktemp("jsonl"), text)
    task = load_task(config, Path(config.path).parent)
    assert {(p.prompt, p.answer) for p in task.rl + task.dev + task.test} == set(lines)


@pytest.mark.parametrize(
    ("second_line", "message"),
    [
        ('{"prompt": "2+1=", "answer": ', "problems.jsonl:2: not JSON (Expecting value at column 30)"),
        ("[1, 2]", 'problems.jsonl:2: a list, not an object; write {"prompt": ..., "answer": ...}'),
        ('{"prompt": "2+1="}', "problems.jsonl:2: no `answer`; the object has 'prompt'"),
        ('{"prompt": "2+1=", "answer": 3}', "problems.jsonl:2: `answer` is 3; use a string that is not empty"),
        ('{"prompt": "", "answer": "3"}', "problems.jsonl:2: `prompt` is ''; use a string that is not empty"),
        ('{"prompt": "2×1=", "answer": "2"}', "problems.jsonl:2: the vocabulary has no '×'"),
        (b'{"prompt": "\xff", "answer": "3"}', "is not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_broken_line_is_named(tmp_path, second_line, message):
    broken = second_line if isinstance(second_line, bytes) else second_line.encode()
    config = jsonl(tmp_path, b'{"prompt": "1+1=", "answer": "2"}\n' + broken + b"\n")
    with pytest.raises(TaskError) as error:
        load_task(config, tmp_path)
    assert str(error.value).startswith(config.path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "/nowhere/problems.jsonl"}, "task.path='/nowhere/problems.jsonl' is not a file; give the path"),
        ({"path": ""}, "task.path='' is not a file"),
        ({"split": SplitConfig(8, 1, 2)}, "and there are 10 different ones; add lines to task.path or ask for fewer"),
    ],
)
def test_jsonl_errors(tmp_path, fields, message):
    with pytest.raises(TaskError) as error:
        load_task(jsonl(tmp_path, LINES, **fields), tmp_path)
    assert message in str(error.value)


def test_an_empty_file_is_an_error(tmp_path):
    with pytest.raises(TaskError, match="has no lines; add objects"):
        load_task(jsonl(tmp_path, "\n\n"), tmp_path)


def test_the_jsonl_overlay_demands_a_path(tmp_path):
    overlay = OmegaConf.load(Path(__file__).parents[3] / "conf" / "task" / "jsonl.yaml")
    assert overlay.pop("defaults") == ["base_task", "_self_"]
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TaskConfig), overlay))
    with pytest.raises(TaskError, match=r"task\.path='' is not a file"):
        load_task(config, tmp_path)
    config = replace(config, path=jsonl(tmp_path, LINES).path, split=SplitConfig(1, 1, 1))
    assert len(load_task(config, tmp_path).rl) == 8


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("He has 3 left.\n#### 1,204", 1.0),
        ("so it is $1204.", 1.0),
        ("1204.0 in all", 1.0),
        ("1204, or rather 1205", 0.0),
        ("-1204", 0.0),
        ("no idea", 0.0),
    ],
)
def test_the_last_number_of_an_answer_counts(tmp_path, answer, reward):
    lines = "".join(f'{{"prompt": "{i}?", "answer": "3 + 1201 is 1204\\n#### 1204"}}\n' for i in range(4))
    task = load_task(jsonl(tmp_path, lines, verifier="last_number"), tmp_path)
    assert task.reward(task.test[0], answer) == reward


@pytest.mark.parametrize(
    ("reference", "answer", "reward"),
    [
        ("#### 5", "#### 5\nQuestion: Tom has 7 pens.", 1.0),  # a base model that doesn't stop
        ("#### 5", "#### 7\n#### 5", 0.0),  # the first counts
        ("#### 5", "it is 5 ####", 0.0),
        ("#### -5", "so he has -$5", 1.0),
        ("#### -5", "$-5.00", 1.0),
        ("#### -5", "it is \N{MINUS SIGN}5", 1.0),
        ("#### 5", "-$5", 0.0),
        ("#### 5", "10-5", 1.0),
        ("#### 5", "(7+3)-5", 1.0),
        ("#### 0.5", "half, .5", 1.0),
        ("#### 0.5", "5", 0.0),
        ("#### $42,500.00", "$42500.", 1.0),
        ("#### 42,500", "42 and 500", 0.0),
        ("#### 12,345,678", "12345678", 1.0),
    ],
)
def test_numbers_are_read_as_they_are_written(tmp_path, reference, answer, reward):
    lines = "".join(f'{{"prompt": "{i}?", "answer": "{reference}"}}\n' for i in range(4))
    task = load_task(jsonl(tmp_path, lines, verifier="last_number"), tmp_path)
    assert task.reward(task.test[0], answer) == reward
    assert task.reward(task.test[0], reference + ".") == 1.0
