"""From problems as a source draws them to disjoint splits.

Two prompts with the same *canonical key* are one problem, and one problem is in one place. The order is by a keyed hash
of the canonical key, so it depends on the seed and the problem only: not on Python's random generator, nor on how many
problems were drawn. Held-out splits are cut first, so that the size of `supervised` can vary over a study while `dev`
and `test` stay the same problems.
"""

import re
from collections.abc import Iterable
from hashlib import blake2b

from experiments.tasks.task import Problem, TaskError, answer_format
from orchestrator.schema.training import TaskConfig

_NUMBER = re.compile(r"(?:(?<![\w)])-)?\d+(?:\.\d+)?")
"""A number with its sign; the minus of `9-4` is an operator."""


def canonical_key(prompt: str, commutative: bool) -> str:
    """What a problem is known by: its prompt; if `commutative`, the prompt with its two operands in a fixed order.

    Raises:
        TaskError: if `commutative` and the prompt does not hold exactly two numbers.
    """
    if not commutative:
        return prompt
    operands = _NUMBER.findall(prompt)
    if len(operands) != 2:
        raise TaskError(
            f"task.commutative=true: {prompt!r} holds {len(operands)} numbers; only two-operand problems can be "
            "commutative, so set it to false"
        )
    ordered = iter(sorted(operands))
    return _NUMBER.sub(lambda _: next(ordered), prompt)


def distinct_in_order(problems: Iterable[Problem], config: TaskConfig) -> list[Problem]:
    """The first of each set of equal problems, in the order that `config.seed` fixes.

    Raises:
        TaskError: if `config.commutative` and two problems that it makes one have different answers.
    """
    kept: dict[str, Problem] = {}
    plain = answer_format(config).read  # two ways to one answer may be reasoned differently
    for problem in problems:
        key = canonical_key(problem.prompt, config.commutative)
        first = kept.setdefault(key, problem)
        if config.commutative and plain(first.answer) != plain(problem.answer):
            raise TaskError(
                f"task.commutative=true: {first.prompt!r} and {problem.prompt!r} have different answers "
                f"({first.answer!r}, {problem.answer!r}); set it to false"
            )
    seed = str(config.seed).encode()[: blake2b.MAX_KEY_SIZE]
    order = sorted(kept, key=lambda key: (blake2b(key.encode(), key=seed, digest_size=16).digest(), key))
    return [kept[key] for key in order]


def split(problems: list[Problem], config: TaskConfig) -> dict[str, list[Problem]]:
    """`problems` (distinct, in order) as `test`, `dev`, `supervised` and the rest, `rl`.

    Raises:
        TaskError: for a negative size, or if there are fewer problems than the sizes ask for.
    """
    sizes = config.split
    for name in ("supervised", "dev", "test"):
        if getattr(sizes, name) < 0:
            raise TaskError(f"task.split.{name}={getattr(sizes, name)}: use 0 or more")
    wanted = sizes.supervised + sizes.dev + sizes.test
    if wanted > len(problems):
        more = "add lines to task.path" if config.source == "jsonl" else f"raise task.size ({config.size})"
        raise TaskError(
            f"task.split asks for {wanted} problems (supervised {sizes.supervised}, dev {sizes.dev}, test "
            f"{sizes.test}), and there are {len(problems)} different ones; {more} or ask for fewer"
        )
    held_out = sizes.test + sizes.dev
    supervised = problems[held_out:wanted]
    rest = problems[wanted:]
    return {
        "test": problems[: sizes.test],
        "dev": problems[sizes.test : held_out],
        "supervised": supervised,
        "rl": supervised + rest if sizes.rl_includes_supervised else rest,
    }
