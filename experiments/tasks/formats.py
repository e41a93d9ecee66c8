"""How an answer is written where it is trained on, and what of a completion the verifier sees."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_COT = re.compile(r"<think>(?:(?!</?think>|</?answer>).)*</think><answer>(?:(?!</?think>|</?answer>).)*</answer>", re.S)
_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.S)


@dataclass(frozen=True)
class AnswerFormat:
    """write: (plain answer, reasoning) -> trained text. read: completion -> plain answer, None where there is none.
    kept: whether a completion keeps to the format. tags: what it is marked with, one token each to a compact
    decoder."""

    write: Callable[[str, str], str]
    read: Callable[[str], str | None]
    kept: Callable[[str], bool]
    tags: tuple[str, ...] = ()


def _read_cot(completion: str) -> str | None:
    """The last `<answer>...</answer>`; what stands around it is not looked at."""
    answers = _ANSWER.findall(completion)
    return answers[-1] if answers else None


ANSWER_FORMATS: Mapping[str, AnswerFormat] = {
    "plain": AnswerFormat(write=lambda plain, _: plain, read=lambda text: text, kept=lambda _: True),
    "reversed": AnswerFormat(write=lambda plain, _: plain[::-1], read=lambda text: text[::-1], kept=lambda _: True),
    # As DeepSeek-R1-Zero is asked to answer (arXiv:2501.12948, table 1): each tag once, in order, nothing around them.
    "cot": AnswerFormat(
        write=lambda plain, reasoning: f"<think>{reasoning}</think><answer>{plain}</answer>",
        read=_read_cot,
        kept=lambda text: _COT.fullmatch(text) is not None,
        tags=TAGS,
    ),
}
"""By `TaskConfig.answer_format`."""
