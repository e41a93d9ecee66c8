"""Prompts and answers from a JSONL file: an object with the strings `prompt` and `answer` per line; blank lines are
skipped, other fields stay in the entry, which is the line itself. The verifier is exact match.
"""

import json
from pathlib import Path

from experiments.tasks.task import Problem, TaskError, answer_format
from experiments.tasks.tokenizer import CharTokenizer
from orchestrator.schema.training import TaskConfig


def read(config: TaskConfig) -> list[Problem]:
    """Every problem of `config.path`, in the file's order.

    Raises:
        TaskError: for a file that is missing, empty or not UTF-8, and as `path:line: what` for a line that is broken.
    """
    path = Path(config.path)
    if not config.path or not path.is_file():
        raise TaskError(
            f"task.path={config.path!r} is not a file; give the path of a JSONL file of prompts and answers"
        )
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    problems = [_problem(line, f"{path}:{number}", config) for number, line in enumerate(lines, 1) if line.strip()]
    if not problems:
        raise TaskError(f"task.path={config.path!r} has no lines; add objects with `prompt` and `answer`, one a line")
    return problems


def exact_match(answer: str, problem: Problem) -> float:
    """1.0 if `answer` is the entry's answer, character for character; else 0.0."""
    return float(answer == json.loads(problem.entry)["answer"])


def _problem(line: str, where: str, config: TaskConfig) -> Problem:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise TaskError(f"{where}: not JSON ({error.msg} at column {error.colno}); write one object per line") from None
    if not isinstance(entry, dict):
        raise TaskError(f'{where}: a {type(entry).__name__}, not an object; write {{"prompt": ..., "answer": ...}}')
    for name in ("prompt", "answer"):
        if name not in entry:
            raise TaskError(f"{where}: no `{name}`; the object has {', '.join(map(repr, entry)) or 'no fields'}")
        if not isinstance(entry[name], str) or not entry[name]:
            raise TaskError(f"{where}: `{name}` is {entry[name]!r}; use a string that is not empty")
    prompt = entry["prompt"].replace(" ", "") if config.strip_spaces else entry["prompt"]
    try:
        CharTokenizer().encode(prompt + entry["answer"])
    except ValueError as error:
        raise TaskError(f"{where}: {error}") from None
    return Problem(prompt, answer_format(config)(entry["answer"]), line)
