"""`load_task`: from a config to a task. Cheap enough for a trial that lasts seconds: what a source had to generate is
read back from the cache.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from experiments.tasks import jsonl, reasoning_gym
from experiments.tasks.cache import generated
from experiments.tasks.splits import distinct_in_order, split
from experiments.tasks.task import Problem, Task, TaskError, Verifier, answer_format
from orchestrator.schema.training import TaskConfig


def _load_reasoning_gym(config: TaskConfig, cache_dir: Path) -> tuple[list[Problem], Verifier]:
    def generate() -> list[Problem]:
        return distinct_in_order(reasoning_gym.generate(config), config)

    return generated(config, cache_dir, generate), reasoning_gym.ReasoningGymVerifier(config)


def _load_jsonl(config: TaskConfig, cache_dir: Path) -> tuple[list[Problem], Verifier]:
    # Read each time: the file may have changed, and parsing 5,000 lines takes hundredths of a second.
    return distinct_in_order(jsonl.read(config), config), jsonl.exact_match


SOURCES: Mapping[str, Callable[[TaskConfig, Path], tuple[list[Problem], Verifier]]] = {
    "reasoning_gym": _load_reasoning_gym,
    "jsonl": _load_jsonl,
}
"""`TaskConfig.source` -> its problems, distinct and in order, and their verifier."""


def load_task(config: TaskConfig, cache_dir: Path) -> Task:
    """The task that `config` describes. The same config gives the same task, in the same order, anywhere.

    `cache_dir` is created when there is something to cache. Any number of processes may load at once.

    Raises:
        TaskError: naming the field, its value and what would do, for an unknown source, data set, option or answer
            format, a template that does not fit the data set, a broken file, too few problems for the splits, and a
            prompt or an answer over its limit. Lengths are in tokens of `CharTokenizer`: those of a prompt without
            BOS, those of an answer with its EOS.
    """
    answer_format(config)
    if config.source not in SOURCES:
        raise TaskError(f"task.source={config.source!r}: use one of {', '.join(SOURCES)}")
    problems, verifier = SOURCES[config.source](config, cache_dir)
    _check_lengths(problems, config)
    return Task(config=config, verifier=verifier, **split(problems, config))


def _check_lengths(problems: list[Problem], config: TaskConfig) -> None:
    longest_prompt = max((problem.prompt for problem in problems), key=len, default="")
    if len(longest_prompt) > config.max_prompt_tokens:
        raise TaskError(
            f"task.max_prompt_tokens={config.max_prompt_tokens}: the prompt {longest_prompt[:80]!r} has "
            f"{len(longest_prompt)} tokens; raise it to {len(longest_prompt)}, or shorten the prompts"
        )
    longest_answer = max((problem.answer for problem in problems), key=len, default="")
    if len(longest_answer) + 1 > config.max_answer_tokens:
        raise TaskError(
            f"task.max_answer_tokens={config.max_answer_tokens}: the answer {longest_answer[:80]!r} has "
            f"{len(longest_answer) + 1} tokens, EOS included; raise it to {len(longest_answer) + 1}"
        )
