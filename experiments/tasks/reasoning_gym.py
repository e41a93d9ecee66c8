"""Problems and verifiers from reasoning-gym (https://github.com/open-thought/reasoning-gym).

The package takes seconds to import, so it is imported where it is needed: to generate, and to score a completion that
is not the reference answer. A process that forks trials should preload it.

One option is ours: `operators` keeps the expressions made of these operators only, for data sets such as `chain_sum`
that draw their operators at random and have no such option themselves.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from experiments.tasks.task import Problem, TaskError, answer_format
from experiments.tasks.tokenizer import CharTokenizer
from orchestrator.schema.training import TaskConfig

_RESERVED = ("seed", "size")
_OPERATORS = frozenset({"+", "-", "*", "/", "%", "**", "//"})


def generate(config: TaskConfig) -> Iterator[Problem]:
    """`config.size` problems as reasoning-gym draws them, less those that `operators` leaves out. May repeat.

    Raises:
        TaskError: for an unknown data set or option, a template that does not fit the entries, a character that
            `CharTokenizer` lacks, and a data set whose reference answers its own verifier does not accept.
    """
    dataset, operators = _build(config)
    trained = answer_format(config)
    encode = CharTokenizer().encode
    for index in range(config.size):
        entry = dataset[index]
        if operators is not None and not _operators_of(entry, config) <= operators:
            continue
        text = _json(entry, config)
        # The verifier gets the entry as the cache gives it back, so what is proved here holds for every trial.
        if not _accepts(dataset, entry["answer"], json.loads(text)):
            raise TaskError(
                f"task.dataset={config.dataset!r}: its verifier does not accept its own answer "
                f"({str(entry['answer'])[:80]!r}, entry {index}), so it cannot be learned from; choose another data set"
            )
        prompt = _prompt(entry, config)
        try:
            encode(prompt + entry["answer"])
        except ValueError as error:
            raise TaskError(f"task.dataset={config.dataset!r}, entry {index}: {error}") from None
        yield Problem(prompt, trained(entry["answer"]), text)


class ReasoningGymVerifier:
    """The `score_answer` of the data set that the problem came from. Picklable; imports reasoning-gym when called."""

    def __init__(self, config: TaskConfig) -> None:
        self._config = config
        self._dataset: Any = None

    def __call__(self, answer: str, problem: Problem) -> float:
        """Score of `answer` (plain format), 0 to 1. An answer that the data set's code chokes on scores 0."""
        if self._dataset is None:
            self._dataset, _ = _build(self._config)
        try:
            return float(self._dataset.score_answer(answer, json.loads(problem.entry)))
        except Exception:
            # Some verifiers parse the answer without guarding against text that is no answer at all, and a model
            # under training writes such text. That the verifier and the entry are sound was proved at generation.
            return 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {"_config": self._config, "_dataset": None}


def _build(config: TaskConfig) -> tuple[Any, frozenset[str] | None]:
    from reasoning_gym.factory import DATASETS, create_dataset

    if config.dataset not in DATASETS:
        raise TaskError(_unknown("task.dataset", config.dataset, list(DATASETS)))
    options = dict(config.options)
    known = {field.name for field in fields(DATASETS[config.dataset][1])} - set(_RESERVED)
    operators = None
    if "operators" in options and "operators" not in known:
        operators = frozenset(options.pop("operators"))
    for name in options:
        if name in _RESERVED:
            raise TaskError(f"task.options.{name}={options[name]!r}: set task.{name} instead")
        if name not in known:
            raise TaskError(_unknown(f"task.options ({config.dataset})", name, sorted(known)))
    try:
        dataset = create_dataset(config.dataset, **options, seed=config.seed, size=config.size)
    except (AssertionError, TypeError, ValueError) as error:
        raise TaskError(f"task.options={options!r}: {config.dataset} says: {error}") from error
    return dataset, operators


def _unknown(field: str, value: str, known: list[str]) -> str:
    close = get_close_matches(value, known, n=3, cutoff=0.5)
    remedy = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are: {', '.join(known)}"
    return f"{field} has no {value!r}; {remedy}"


def _operators_of(entry: Mapping[str, Any], config: TaskConfig) -> frozenset[str]:
    expression = entry["metadata"].get("expression")
    if expression is None:
        raise TaskError(
            f"task.options.operators: {config.dataset} has no expressions to choose from; remove the option"
        )
    return _OPERATORS.intersection(expression.split())


def _prompt(entry: Mapping[str, Any], config: TaskConfig) -> str:
    try:
        prompt = config.prompt.format(**entry)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        metadata = ", ".join(f"{{metadata[{name}]}}" for name in entry["metadata"])
        raise TaskError(
            f"task.prompt={config.prompt!r} does not fit {config.dataset} ({error}); use {{question}}, {metadata}"
        ) from None
    return prompt.replace(" ", "") if config.strip_spaces else prompt


def _json(entry: Mapping[str, Any], config: TaskConfig) -> str:
    try:
        return json.dumps(entry)
    except TypeError as error:
        raise TaskError(f"task.dataset={config.dataset!r}: its entries cannot be stored ({error})") from None


def _accepts(dataset: Any, answer: Any, entry: Mapping[str, Any]) -> bool:
    return isinstance(answer, str) and dataset.score_answer(answer, entry) >= 1.0
