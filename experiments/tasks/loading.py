"""`load_task`: from a config to a task. Cheap enough for a trial that lasts seconds: what a source had to generate is
read back from the cache.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.tasks import jsonl, reasoning_gym
from experiments.tasks.cache import generated
from experiments.tasks.splits import canonical_key, distinct_in_order, split
from experiments.tasks.task import Level, Problem, Task, TaskError, Verifier, answer_format
from experiments.tasks.tokenizer import Tokenizer, tokenizer_of
from orchestrator.schema.training import AnyModelConfig, ModelConfig, TaskConfig


def _load_reasoning_gym(config: TaskConfig, cache_dir: Path, tokenizer: Tokenizer) -> tuple[list[Problem], Verifier]:
    def generate() -> list[Problem]:
        return distinct_in_order(reasoning_gym.generate(config), config)

    return generated(config, cache_dir, generate), reasoning_gym.ReasoningGymVerifier(config)


def _load_jsonl(config: TaskConfig, cache_dir: Path, tokenizer: Tokenizer) -> tuple[list[Problem], Verifier]:
    # Read each time: the file may have changed, and parsing 5,000 lines takes hundredths of a second.
    return distinct_in_order(jsonl.read(config, tokenizer), config), jsonl.VERIFIERS[config.verifier]


SOURCES: Mapping[str, Callable[[TaskConfig, Path, Tokenizer], tuple[list[Problem], Verifier]]] = {
    "reasoning_gym": _load_reasoning_gym,
    "jsonl": _load_jsonl,
}
"""`TaskConfig.source` -> its problems, distinct and in order, and their verifier."""


def load_task(config: TaskConfig, cache_dir: Path, model: AnyModelConfig | None = None) -> Task:
    """The task that `config` describes, for a model (None: a compact decoder). The same config gives the same task, in
    the same order, anywhere.

    `cache_dir` is created when there is something to cache. Any number of processes may load at once.

    Raises:
        TaskError: naming the field, its value and what would do, for an unknown source, data set, option or answer
            format, a template that does not fit the data set, a broken file, too few problems for the splits, and a
            prompt or an answer over its limit. Lengths are in tokens of the model's tokenizer: those of a prompt
            without the first (BOS), those of an answer with its EOS.
        ValueError, OSError: for a model whose tokenizer can't be read.
    """
    answer_format(config)
    tokenizer = tokenizer_of(model or ModelConfig(), config)
    if config.source not in SOURCES:
        raise TaskError(f"task.source={config.source!r}: use one of {', '.join(SOURCES)}")
    problems, verifier = SOURCES[config.source](config, cache_dir, tokenizer)
    _check_lengths(problems, config, tokenizer)
    splits = split(problems, config)
    held_out = {canonical_key(problem.prompt, config.commutative) for problem in splits["dev"] + splits["test"]}
    levels = tuple(_level(level, held_out, config, cache_dir, tokenizer) for level in config.curriculum)
    return Task(config=config, verifier=verifier, levels=levels, **splits)


def _level(
    level: Mapping[str, Any], held_out: set[str], config: TaskConfig, cache_dir: Path, tokenizer: Tokenizer
) -> Level:
    """The problems of the task with the level's options, without those that are measured on."""
    its_own = replace(config, options={**config.options, **level["options"]})
    problems, _ = SOURCES[config.source](its_own, cache_dir, tokenizer)
    _check_lengths(problems, config, tokenizer)
    problems = [p for p in problems if canonical_key(p.prompt, config.commutative) not in held_out]
    if not problems:
        raise TaskError(f"task.curriculum: {dict(level['options'])} has no problem that is not held out")
    supervised = problems[: config.split.supervised]
    rest = problems[config.split.supervised :]
    rl = problems if config.split.rl_includes_supervised else rest or problems
    return Level(level["until"], supervised or problems, rl)


def _check_lengths(problems: list[Problem], config: TaskConfig, tokenizer: Tokenizer) -> None:
    longest_prompt, tokens = _longest((problem.prompt for problem in problems), tokenizer.prompt_length)
    if tokens - 1 > config.max_prompt_tokens:
        raise TaskError(
            f"task.max_prompt_tokens={config.max_prompt_tokens}: the prompt {longest_prompt[:80]!r} has "
            f"{tokens - 1} tokens; raise it to {tokens - 1}, or shorten the prompts"
        )
    longest_answer, tokens = _longest((problem.answer for problem in problems), tokenizer.answer_length)
    if tokens > config.max_answer_tokens:
        raise TaskError(
            f"task.max_answer_tokens={config.max_answer_tokens}: the answer {longest_answer[:80]!r} has "
            f"{tokens} tokens, EOS included; raise it to {tokens}"
        )


def _longest(texts: Iterable[str], length: Callable[[str], int]) -> tuple[str, int]:
    """The longest text and its length; of none "" and 0."""
    longest = max(texts, key=length, default="")
    return longest, length(longest) if longest else 0
