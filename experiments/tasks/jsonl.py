"""Prompts and answers from a JSONL file: an object with the strings `prompt` and `answer` per line; blank lines are
skipped, other fields stay in the entry, which is the line itself. A string `reasoning` is written before the answer
where `answer_format=cot`. The verifier is one of `VERIFIERS`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from experiments.tasks.task import Problem, TaskError, Verifier, answer_format
from experiments.tasks.tokenizer import Tokenizer
from orchestrator.schema.training import TaskConfig


def read(config: TaskConfig, tokenizer: Tokenizer) -> list[Problem]:
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
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    problems = [_problem(line, f"{path}:{number}", config, tokenizer) for number, line in numbered]
    if not problems:
        raise TaskError(f"task.path={config.path!r} has no lines; add objects with `prompt` and `answer`, one a line")
    return problems


def exact_match(answer: str, problem: Problem) -> float:
    """1.0 if `answer` is the entry's answer, character for character; else 0.0."""
    return float(answer == json.loads(problem.entry)["answer"])


def last_number(answer: str, problem: Problem) -> float:
    """1.0 if `answer` gives the number that the entry's answer gives; else 0.0. That is the first one behind `####`, as
    GSM8K's own script reads it (arXiv:2110.14168), or where there is no such mark the last of all.

    Commas between thousands, a currency sign and a full stop behind are no part of a number; a minus right behind a
    digit, a letter or a bracket takes away and is no sign.
    """
    mine, theirs = _final_number(answer), _final_number(json.loads(problem.entry)["answer"])
    return float(mine is not None and mine == theirs)


def _final_number(text: str) -> float | None:
    _, mark, behind = text.partition("####")
    found = _NUMBER.findall(behind if mark else text)
    if not found:
        return None
    sign, digits = found[0 if mark else -1]
    number = float(digits.replace(",", ""))
    return -number if sign else number


_NUMBER = re.compile(
    r"((?<![\w.,)\]])[-\u2212])?[$€£]?((?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])\.\d+)", re.ASCII
)

VERIFIERS: Mapping[str, Verifier] = {"exact": exact_match, "last_number": last_number}
"""`TaskConfig.verifier` -> the verifier."""


def _problem(line: str, where: str, config: TaskConfig, tokenizer: Tokenizer) -> Problem:
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
        tokenizer.check(prompt + str(entry.get("reasoning", "")) + entry["answer"])
    except ValueError as error:
        raise TaskError(f"{where}: {error}") from None
    return Problem(prompt, answer_format(config).write(entry["answer"], str(entry.get("reasoning", ""))), line)
