"""Problems and verifiers from reasoning-gym (https://github.com/open-thought/reasoning-gym).

The package takes seconds to import, so it is imported where it is needed: to generate, and to score a completion that
is not the reference answer. A process that forks trials should preload it.

One option is ours: `operators` keeps the expressions made of these operators only, for data sets such as `chain_sum`
that draw their operators at random and have no such option themselves.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from experiments.tasks.reasoning import reasoning
from experiments.tasks.task import Problem, TaskError, answer_format
from experiments.tasks.tokenizer import CharTokenizer
from orchestrator.schema.training import TaskConfig

REMEMBERED = 100_000
"""Scores that a verifier remembers: some 20 MB at most."""
_RESERVED = ("seed", "size")
_OPERATORS = frozenset({"+", "-", "*", "/", "%", "**", "//"})


def generate(config: TaskConfig) -> list[Problem]:
    """What of reasoning-gym's first `config.size` entries can be trained on. Problems may repeat.

    Left out are entries with operators other than the `operators` option's, with a character that `CharTokenizer` lacks
    (`aërial` among English words), and with a reference answer that their own verifier does not accept (`None`, where
    a data set only checks solutions).

    Raises:
        TaskError: for an unknown data set or option, a template that does not fit the entries, and a data set of which
            no entry can be used.
    """
    dataset, operators = _build(config)
    trained = answer_format(config)
    problems: list[Problem] = []
    obstacle = None
    for index in range(config.size):
        entry = dataset[index]
        if operators is not None and not _operators_of(entry, config) <= operators:
            continue
        prompt, text = _prompt(entry, config), _json(entry, config)
        entry_obstacle = _obstacle(dataset, entry["answer"], prompt, text)
        if entry_obstacle is None:
            answer = trained.write(entry["answer"], reasoning(config.dataset, entry))
            problems.append(Problem(prompt, answer, text))
        else:
            obstacle = entry_obstacle
    if obstacle is not None and not problems:
        raise TaskError(f"task.dataset={config.dataset!r}: no entry can be used, since {obstacle}; choose another one")
    return problems


def _obstacle(dataset: Any, answer: Any, prompt: str, entry: str) -> str | None:
    """Why this entry cannot be trained on, if so."""
    # The verifier gets the entry as the cache will give it back, so what is proved here holds for every trial.
    if not isinstance(answer, str) or not dataset.score_answer(answer, json.loads(entry)) >= 1.0:
        return f"its verifier does not accept its own answer {str(answer)[:80]!r}"
    try:
        CharTokenizer().encode(prompt + answer)
    except ValueError as error:
        return str(error)
    return None


class ReasoningGymVerifier:
    """The `score_answer` of the data set that the problem came from. Picklable; imports reasoning-gym when called.

    It remembers its scores: a policy gives the same answers again and again, and so do many that are trained together.
    """

    def __init__(self, config: TaskConfig) -> None:
        self._config = config
        self._dataset: Any = None
        self._scores: dict[tuple[str, str], float] = {}

    def __call__(self, answer: str, problem: Problem) -> float:
        """Score of `answer` (plain format), 0 to 1. An answer that the data set's code chokes on scores 0."""
        asked = answer, problem.entry
        score = self._scores.get(asked)
        if score is None:
            if len(self._scores) >= REMEMBERED:
                self._scores.clear()
            score = self._scores[asked] = self._score(answer, problem)
        return score

    def _score(self, answer: str, problem: Problem) -> float:
        if self._dataset is None:
            self._dataset, _ = _build(self._config)
        try:
            return float(self._dataset.score_answer(answer, _parsed(problem.entry)))
        except Exception:
            # Some verifiers parse the answer without guarding against text that is no answer at all, and a model
            # under training writes such text. That the verifier and the entry are sound was proved at generation.
            return 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {"_config": self._config, "_dataset": None, "_scores": {}}


@lru_cache(maxsize=4096)  # those of many members come up again; a verifier only reads its entry
def _parsed(entry: str) -> Any:
    return json.loads(entry)


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
