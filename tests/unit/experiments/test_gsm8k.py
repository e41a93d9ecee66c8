"""GSM8K from its authors' file and from `datasets`, read back as a task."""

import json
import subprocess
import sys

import pytest

from experiments.tasks import load_task
from experiments.tasks.gsm8k import main, problems, published
from orchestrator.schema.training import RewardConfig, SplitConfig, TaskConfig

ROWS = [
    {
        "question": f"Natalia sold {n} clips in April and half as many in May. How many?",
        "answer": f"In May it was {n}/2 = <<{n}/2={n // 2}>>{n // 2}.\nIn all {n + n // 2:,}.\n#### {n + n // 2:,}",
    }
    for n in range(1000, 1020, 2)
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "\n")
    return path


def converted(capsys, *arguments):
    main([str(argument) for argument in arguments])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def task_of(folder, lines, **fields):
    path = folder / "gsm8k.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    limits = {"max_prompt_tokens": 100, "max_answer_tokens": 120, "split": SplitConfig(4, 2, 2)}
    config = TaskConfig(source="jsonl", path=str(path), verifier="last_number", **limits, **fields)
    return load_task(config, folder)


def test_the_published_file_becomes_a_task_that_knows_its_own_answers(file, tmp_path, capsys):
    lines = converted(capsys, file)
    assert lines[0] == {
        "prompt": ROWS[0]["question"],
        "answer": "In May it was 1000/2 = 500.\nIn all 1,500.\n#### 1,500",
    }
    task = task_of(tmp_path, lines)
    problem = next(p for p in (*task.rl, *task.dev, *task.test) if " 1000 " in p.prompt)
    assert task.reward(problem, problem.answer) == 1.0
    assert task.reward(problem, "so 1500 clips.") == 1.0
    assert task.reward(problem, "#### 1501") == 0.0


def test_with_the_reasoning_apart_it_is_a_chain_of_thought(file, tmp_path, capsys):
    task = task_of(tmp_path, converted(capsys, file, "--reasoning"), answer_format="cot", reward=RewardConfig(1.0, 0.2))
    problem = next(p for p in (*task.rl, *task.dev, *task.test) if " 1000 " in p.prompt)
    assert problem.answer == "<think>In May it was 1000/2 = 500.\nIn all 1,500.</think><answer>1,500</answer>"
    assert task.reward(problem, "<think></think><answer>1500</answer>") == pytest.approx(1.2)
    assert task.reward(problem, "#### 1500") == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("split", [False, True], ids=["one split", "several"])
def test_what_datasets_saved_is_what_the_file_says(file, tmp_path, split):
    # In a process of its own: datasets leaves threads behind.
    save = f"datasets.Dataset.from_list([json.loads(l) for l in open({str(file)!r}) if l.strip()])"
    whole = f"datasets.DatasetDict(train={save}, test={save}.select([0]))" if split else save
    code = f"import datasets, json; {whole}.save_to_disk({str(tmp_path / 'saved')!r})"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    command = [sys.executable, "-m", "experiments.tasks.gsm8k", str(tmp_path / "saved")]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert [json.loads(line) for line in out.splitlines()] == list(problems(ROWS))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "1+1", "answer": "2"}, "row 1: GSM8K has `question` and `answer`, this has answer, prompt"),
        ({"question": "1+1", "answer": "2"}, "row 1: its answer has no ####"),
    ],
)
def test_what_is_no_gsm8k_is_refused_with_its_row(row, told):
    with pytest.raises(ValueError, match=told):
        list(problems([row]))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.jsonl: no such file"):
        published(str(tmp_path / "train.jsonl"))
