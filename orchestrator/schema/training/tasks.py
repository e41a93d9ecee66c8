"""What is asked: problems, their splits, rewards, and how often answers are measured."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class SplitConfig:
    """How many problems each split holds; the RL prompts are the rest. No problem is in two splits, but for
    `supervised`, which RL may also use as prompts when `rl_includes_supervised` is set.

    supervised: prompts with reference answers, for `sft`. dev: the `eval/*` series, thresholds and the choice of
    winners. test: held out for the number that is reported at the end.
    """

    supervised: int = 400
    dev: int = 200
    test: int = 400
    rl_includes_supervised: bool = True


@dataclass
class RewardConfig:
    """What a completion's accuracy (right or not) and its keeping to the answer format weigh in its reward."""

    accuracy: float = 1.0
    format: float = 0.0


@dataclass
class TaskConfig:
    """Prompts with a verifier.

    source `reasoning_gym`: `dataset` is one of its data sets, `options` its parameters, `size` how many problems are
    drawn (duplicates are dropped), `prompt` a `str.format` template over the entry (`{question}`,
    `{metadata[expression]}`); spaces are dropped when `strip_spaces`. source `jsonl`: `path` is a file with an object
    with `prompt` and `answer` per line, and `verifier` is what the reward is by: `exact` match, or `last_number`, the
    number behind `####` in an answer (GSM8K), or the last one. `answer_format`: `plain`, `reversed` (the answer's
    characters in reverse order: the units come first, as in column addition), or `cot`
    (`<think>...</think><answer>...</answer>`, of which the verifier sees what stands in the answer). `commutative`
    marks two-operand problems in which a+b and b+a are one problem. A completion is right when the verifier scores it
    >= `reward_threshold`. `loader` is the `package.module:function` that reads the task from (config, cache folder,
    config of the model whose tokens count).

    curriculum: levels `{until: 800, options: {max_digits: 1}}` in order: for the first so many problems that a stage
    takes (steps x problems a step), it trains on those of `options`, changed by the level's. After the last level, and
    in `dev` and `test` always, they are the task's own.
    """

    name: str = "addition"
    loader: str = "experiments.tasks:load_task"
    verifier: str = "exact"
    source: str = "reasoning_gym"
    dataset: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    size: int = 6000
    seed: int = 0
    prompt: str = "{question}"
    strip_spaces: bool = False
    answer_format: str = "plain"
    commutative: bool = False
    reward_threshold: float = 1.0
    reward: RewardConfig = field(default_factory=RewardConfig)
    curriculum: list[Any] = field(default_factory=list)
    path: str = ""
    max_prompt_tokens: int = 64
    max_answer_tokens: int = 8
    split: SplitConfig = field(default_factory=SplitConfig)


@dataclass
class EvaluationConfig:
    """Greedy decoding, exact match. `eval/accuracy` is logged every `every_steps` optimizer steps (and at the first
    and last) on the dev split; the last checkpoint is measured once on the test split. `timed_answers`: on how many
    test prompts it is timed, one after the other. `load`: how many requests at once it is timed with as well, 0 with
    none."""

    every_steps: int = 20
    batch_size: int = 256
    timed_answers: int = 16
    load: int = 0
